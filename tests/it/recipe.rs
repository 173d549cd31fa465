//! `recipe new`, `recipe test` and `schema`: what helps to write recipes.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const CONFIG: &str = r#"
[platforms.acme]
base_url = "https://api.example.com/v1/"
auth = { bearer = "env:ACME_TOKEN" }
[platforms.acme.limits]
gap = { per = ["account"], every = "5s" }
[platforms.acme.apis.report]
path = "reports/{kind}"
query = { ids = { value = "{ids}", list = "commas" }, day = "{today|days(-1)|format('%Y%m%d')}" }
"#;

const CASE: &str = r#"
queued_at = "2026-11-20T18:00:00Z"
[fetch]
id = "f1"
platform = "acme"
account = "act_1"
api = "report"
params = { kind = "daily", ids = ["1", "2"] }
[[answers]]
status = 503
headers = { retry-after = "30" }
[[answers]]
headers = { content-type = "application/json" }
file = "bodies/page.json"
"#;

fn tollgate(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.current_dir(folder).env_remove("ACME_TOKEN").args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tollgate.toml"), CONFIG).unwrap();
    fs::create_dir_all(folder.path().join("cases/bodies")).unwrap();
    fs::write(folder.path().join("cases/good.toml"), CASE).unwrap();
    fs::write(folder.path().join("cases/bodies/page.json"), r#"{"rows":[1,2]}"#).unwrap();
    folder
}

#[test]
fn a_recipe_is_tried_on_recorded_answers() {
    let folder = folder();
    let ran = tollgate(folder.path(), &["recipe", "test", "cases"]);
    let report = text(&ran.stdout);
    assert!(ran.status.success(), "{report}{}", text(&ran.stderr));
    for line in [
        "cases/good.toml\n",
        "fetch f1 of acme/report for act_1, queued 2026-11-20T18:00:00Z\n",
        "a call counts 1 of gap\n",
        "  GET https://api.example.com/v1/reports/daily?ids=1,2&day=20261119\n",
        "  authorization: ***\n",
        "  answer 1: 503, 0 bytes\n",
        ": throttled: the provider answered 503; again in 30s\n",
        "  answer 2: 200, application/json, 14 bytes\n",
        "object acme/report/act_1/2026-11-20/f1/00001.json.zst: 14 bytes, sha256 ",
        "done f1: status 200, 2 calls, 1 pages\n",
    ] {
        assert!(report.contains(line), "{line}{report}");
    }
    assert!(!folder.path().join("tollgate-data").exists(), "nothing is kept");
}

#[test]
fn the_files_of_an_archive_are_shown_each_with_its_object() {
    let folder = folder();
    let config = CONFIG.to_owned()
        + "[platforms.acme.apis.files]\npath = \"files\"\nformat = \"csv\"\ndecode = \"zip\"\nmembers = \"*\"\n";
    fs::write(folder.path().join("tollgate.toml"), config).unwrap();
    let archive = include_bytes!("../../actors/src/store/tests/archives/large.zip");
    fs::write(folder.path().join("cases/bodies/files.zip"), archive).unwrap();
    let case = "[fetch]\nid = \"f1\"\nplatform = \"acme\"\naccount = \"act_1\"\napi = \"files\"\n\
                [[answers]]\nfile = \"bodies/files.zip\"\n";
    fs::write(folder.path().join("cases/good.toml"), case).unwrap();
    let ran = tollgate(folder.path(), &["recipe", "test", "cases"]);
    let report = text(&ran.stdout);
    assert!(ran.status.success(), "{report}{}", text(&ran.stderr));
    let objects: Vec<&str> = report.lines().filter(|line| line.contains("object ")).collect();
    assert_eq!(objects.len(), 3, "{report}");
    assert!(
        objects[0].contains("/f1/00001.readme.txt.zst: ")
            && objects[0].ends_with(", the file readme.txt"),
        "{report}"
    );
    assert!(
        objects[1].contains("/f1/00001.data%2Freport.csv.zst: ")
            && objects[1].ends_with(", the file data/report.csv"),
        "{report}"
    );
    assert!(report.contains("done f1: status 200, 1 calls, 1 pages\n"), "{report}");
    let mut check = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    let shown = check.current_dir(folder.path()).env("ACME_TOKEN", "t").arg("check").output();
    let shown = text(&shown.unwrap().stdout);
    let line = "decodes a zip archive: an object of each member *, at most 256";
    assert!(shown.contains(line), "{shown}");
}

#[test]
fn what_is_recorded_is_expected_from_then_on() {
    let folder = folder();
    let test = ["recipe", "test", "cases/good.toml"];
    let recorded = tollgate(folder.path(), &["recipe", "test", "--record", "cases/good.toml"]);
    assert!(recorded.status.success(), "{}", text(&recorded.stderr));
    let case = fs::read_to_string(folder.path().join("cases/good.toml")).unwrap();
    assert!(case.starts_with(CASE.trim_end()) && case.contains("[expect]"), "{case}");
    let again = tollgate(folder.path(), &test);
    assert_eq!((again.status.code(), text(&again.stdout)), (Some(0), String::new()));

    // Somebody changes the recipe.
    let changed = CONFIG.replace("commas", "repeat");
    fs::write(folder.path().join("tollgate.toml"), changed).unwrap();
    let differs = tollgate(folder.path(), &test);
    assert_eq!(differs.status.code(), Some(1));
    let shown = text(&differs.stdout);
    let (old, new) = ("ids=1,2&day", "ids=1&ids=2&day");
    for (sign, query) in [('-', old), ('+', new)] {
        let line =
            format!("{sign}   GET https://api.example.com/v1/reports/daily?{query}=20261119\n");
        assert_eq!(shown.matches(&line).count(), 2, "{line}{shown}");
    }
    assert!(!shown.contains("done f1"), "only what differs is shown: {shown}");
    assert!(text(&differs.stderr).contains("1 not as expected"), "{}", text(&differs.stderr));

    tollgate(folder.path(), &["recipe", "test", "--record", "cases"]);
    assert_eq!(tollgate(folder.path(), &test).status.code(), Some(0));
    let json = tollgate(folder.path(), &["recipe", "test", "--json", "cases"]);
    let line: Value = serde_json::from_str(&text(&json.stdout)).unwrap();
    assert_eq!((&line["expected"], &line["ended"]), (&Value::Bool(true), &Value::Bool(true)));
}

#[test]
fn a_case_without_an_answer_fails_and_one_that_is_none_is_an_error() {
    let folder = folder();
    let (fetch, _) = CASE.split_once("[[answers]]").unwrap();
    fs::write(folder.path().join("cases/good.toml"), fetch).unwrap();
    let ran = tollgate(folder.path(), &["recipe", "test", "cases"]);
    assert_eq!(ran.status.code(), Some(1), "{}", text(&ran.stdout));
    fs::write(folder.path().join("cases/good.toml"), "[fetch]\n[[answers]]\nbody = 1").unwrap();
    let ran = tollgate(folder.path(), &["recipe", "test", "cases"]);
    assert_eq!(ran.status.code(), Some(2), "{}", text(&ran.stdout));
    assert!(text(&ran.stderr).contains("cases/good.toml: not a case"), "{}", text(&ran.stderr));
    fs::create_dir(folder.path().join("empty")).unwrap();
    let ran = tollgate(folder.path(), &["recipe", "test", "empty"]);
    assert_eq!(ran.status.code(), Some(2));
}

#[test]
fn a_recipe_to_start_from_is_one_that_works() {
    let folder = tempfile::tempdir().unwrap();
    let written = tollgate(folder.path(), &["recipe", "new", "acme"]);
    assert!(written.status.success(), "{}", text(&written.stderr));
    let check = tollgate(folder.path(), &["--config", "acme.toml", "check"]);
    assert!(check.status.success(), "{}", text(&check.stderr));
    assert!(text(&check.stdout).contains("platform acme"), "{}", text(&check.stdout));
    let twice = tollgate(folder.path(), &["recipe", "new", "acme"]);
    assert_eq!(twice.status.code(), Some(2));
    let shown = tollgate(folder.path(), &["recipe", "new", "--stdout", "acme"]);
    assert_eq!(text(&shown.stdout), fs::read_to_string(folder.path().join("acme.toml")).unwrap());
    assert_eq!(tollgate(folder.path(), &["recipe", "new", "Not A Name"]).status.code(), Some(2));
}

#[test]
fn the_schema_is_the_one_of_the_documentation() {
    let folder = tempfile::tempdir().unwrap();
    let printed = tollgate(folder.path(), &["schema"]);
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tollgate.schema.json");
    assert_eq!(text(&printed.stdout), fs::read_to_string(committed).unwrap());
    let schema: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
}
