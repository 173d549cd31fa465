//! A folder to work in, and what is found there afterwards.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use tollgate_protos::{Dead, Manifest};

use super::process::{Ran, Tollgate};
use super::{Config, lossy, reports, sha256};

/// A folder to work in: `tollgate.toml`, files of fetches, and `data` where things are stored.
#[derive(Debug)]
pub(crate) struct Dir {
    temp: TempDir,
}

impl Dir {
    /// An empty folder.
    pub(crate) fn empty() -> Self {
        Self { temp: TempDir::with_prefix("tollgate-it-").unwrap() }
    }

    /// A folder with a configuration.
    pub(crate) fn with(config: &Config) -> Self {
        let dir = Self::empty();
        dir.write("tollgate.toml", config.text());
        dir
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// The binary with these arguments, in this folder.
    pub(crate) fn tollgate(&self, args: &[&str]) -> Tollgate {
        Tollgate::new(self.temp.path(), args)
    }

    /// `tollgate run --json` on the file `fetches`, which is written first.
    pub(crate) fn run(&self, fetches: &str) -> Ran {
        self.write("fetches.jsonl", fetches);
        self.tollgate(&["run", "--json", "fetches.jsonl"]).run()
    }

    /// The dead letters, by `dead list --json`.
    pub(crate) fn dead(&self) -> Vec<Dead> {
        let ran = self.tollgate(&["dead", "list", "--json"]).run().exits(0);
        ran.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Every file below `folder`, without the state folder, as paths relative to this folder.
    pub(crate) fn files(&self, folder: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.path(folder)];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.map(Result::unwrap) {
                let path = entry.path();
                // Lines about objects are looked at apart.
                if path == self.path("data/state") || path.ends_with("_manifests") {
                    continue;
                }
                if entry.file_type().unwrap().is_dir() {
                    folders.push(path);
                } else {
                    let relative = path.strip_prefix(self.temp.path()).unwrap();
                    found.push(relative.to_str().unwrap().to_owned());
                }
            }
        }
        found.sort();
        found
    }

    /// Removes what killed processes left of files that were not whole yet, which no object store lists as
    /// objects (`KEY#1`), and answers how many those were.
    pub(crate) fn remove_half_written(&self) -> usize {
        let files = self.files("data");
        let halves = files.iter().filter(|file| {
            let number = file.rsplit_once('#').map(|(_, number)| number);
            number.is_some_and(|number| number.parse::<u32>().is_ok())
        });
        halves.map(|file| std::fs::remove_file(self.path(file)).unwrap()).count()
    }

    /// What was collected below `data`, by account, api and id. Checks on the way that every file belongs
    /// to exactly one manifest, and that each manifest tells the truth about its objects.
    pub(crate) fn collected(&self) -> BTreeMap<(String, String, String), Collected> {
        self.collected_in("data")
    }

    /// The same for another folder of objects.
    pub(crate) fn collected_in(
        &self,
        folder: &str,
    ) -> BTreeMap<(String, String, String), Collected> {
        let root = self.path(folder);
        let mut unclaimed = self.files(folder);
        let mut all = BTreeMap::new();
        let is_manifest = |file: &String| file.ends_with("/_manifest.json");
        let manifests: Vec<String> = unclaimed.iter().filter(|f| is_manifest(f)).cloned().collect();
        unclaimed.retain(|file| !is_manifest(file) && !file.ends_with("/_owner.json"));
        for file in manifests {
            let text = std::fs::read(self.path(&file)).unwrap();
            let manifest: Manifest = serde_json::from_slice(&text)
                .unwrap_or_else(|error| panic!("{file}: {error}: {}", lossy(&text)));
            if !manifest.done.split_into.is_empty() {
                assert!(manifest.done.objects.is_empty(), "{file}: {manifest:?}");
                continue;
            }
            assert_eq!(manifest.done.objects.len(), 1, "{file}: {manifest:?}");
            let object = &manifest.done.objects[0];
            let claimed = format!("{folder}/{}", object.key);
            let before = unclaimed.len();
            unclaimed.retain(|file| *file != claimed);
            assert_eq!(before - unclaimed.len(), 1, "{claimed} is not there, or claimed twice");
            assert_eq!(
                Path::new(&claimed).parent(),
                Path::new(&file).parent(),
                "a manifest lies beside its object"
            );
            let stored = std::fs::read(root.join(&object.key)).unwrap();
            assert_eq!(stored.len() as u64, object.stored_bytes, "stored_bytes of {claimed}");
            let body = decompress(&object.key, &stored);
            assert_eq!(body.len() as u64, object.bytes, "bytes of {claimed}");
            assert_eq!(sha256(&body), object.sha256, "sha256 of {claimed}");
            let of = (manifest.account.clone(), manifest.api.clone(), manifest.done.id.clone());
            let collected = Collected { manifest, body };
            assert!(all.insert(of.clone(), collected).is_none(), "{of:?} was stored twice");
        }
        assert!(unclaimed.is_empty(), "files that no manifest claims: {unclaimed:?}");
        all
    }

    /// Asserts that exactly these fetches were collected, each once with the bytes that the emulator has
    /// for it.
    pub(crate) fn assert_reports(&self, accounts: &[String], each: usize) {
        self.assert_reports_in("data", accounts, each);
    }

    /// The same for another folder of objects.
    pub(crate) fn assert_reports_in(&self, folder: &str, accounts: &[String], each: usize) {
        let mut collected = self.collected_in(folder);
        for line in reports(accounts, each).lines() {
            let fetch: Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| fetch[name].as_str().unwrap().to_owned();
            let of = (text("account"), text("api"), text("id"));
            let got = collected.remove(&of).unwrap_or_else(|| panic!("{of:?} is missing"));
            let query = format!("date={}", fetch["params"]["date"].as_str().unwrap());
            let wanted = tollgate_emulator::expected_body(&of.0, "daily", &query, 5);
            assert_eq!(lossy(&got.body), lossy(&wanted), "the body of {of:?}");
        }
        assert!(collected.is_empty(), "collected and not asked for: {:?}", collected.keys());
    }
}

/// What was stored for one fetch.
#[derive(Debug)]
pub(crate) struct Collected {
    pub(crate) manifest: Manifest,
    /// After decompression.
    pub(crate) body: Vec<u8>,
}

/// What was stored under that name, as its extension says.
pub(crate) fn decompress(key: &str, stored: &[u8]) -> Vec<u8> {
    match Path::new(key).extension().and_then(|ext| ext.to_str()) {
        Some("zst") => zstd::decode_all(stored).unwrap(),
        Some("gz") => {
            let mut body = Vec::new();
            flate2::read::GzDecoder::new(stored).read_to_end(&mut body).unwrap();
            body
        }
        _ => stored.to_vec(),
    }
}
