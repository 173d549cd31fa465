//! The committed code is what the schema gives. `TOLLGATE_CODEGEN=write cargo test -p tollgate-protos` writes it anew.

use std::path::Path;

use prost_build::Config;

const FILES: [&str; 5] = [
    "tollgate/v1/value.proto",
    "tollgate/v1/fetch.proto",
    "tollgate/v1/done.proto",
    "tollgate/v1/dead.proto",
    "tollgate/v1/budget.proto",
];
const GENERATED: &str = "tollgate.v1.rs";

#[test]
fn the_generated_code_is_that_of_the_schema() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut on_disk: Vec<String> = std::fs::read_dir(root.join("tollgate/v1"))
        .unwrap()
        .map(|entry| format!("tollgate/v1/{}", entry.unwrap().file_name().to_str().unwrap()))
        .collect();
    on_disk.sort_unstable();
    let mut listed = FILES.map(str::to_owned);
    listed.sort_unstable();
    assert_eq!(on_disk, listed, "a schema that is not generated from");

    let schema = protox::compile(FILES, [root]).unwrap();
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("generated");
    std::fs::create_dir_all(&out).unwrap();
    // Sorted maps: the same message always has the same bytes.
    Config::new().btree_map(["."]).out_dir(&out).compile_fds(schema).unwrap();
    let fresh = std::fs::read_to_string(out.join(GENERATED)).unwrap();

    let committed = root.join("src/gen").join(GENERATED);
    if std::env::var_os("TOLLGATE_CODEGEN").is_some_and(|mode| mode == "write") {
        std::fs::write(&committed, &fresh).unwrap();
    }
    let stored = std::fs::read_to_string(&committed).unwrap_or_default();
    assert!(
        stored == fresh,
        "src/gen/{GENERATED} is stale: run TOLLGATE_CODEGEN=write cargo test -p tollgate-protos"
    );
}
