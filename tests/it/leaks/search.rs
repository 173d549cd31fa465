//! Looks for secrets in all that a run leaves: files and what is packed in them, messages that are stored, messages
//! that were only sent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use async_nats::jetstream::stream::{self, RawMessageErrorKind, Stream};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::json;

use crate::util::{Dir, Nats, decompress, wait_until};

/// Percent-encoded, but for the unreserved characters of RFC 3986 §2.3.
pub(super) fn encoded(text: &str) -> String {
    encoded_but(text, b"-._~")
}

fn encoded_but(text: &str, bare: &[u8]) -> String {
    let byte = |byte: u8| {
        let stays = byte.is_ascii_alphanumeric() || bare.contains(&byte);
        if stays { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(byte).collect()
}

fn hex(text: &str) -> String {
    text.bytes().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

/// In which form a secret may stand somewhere.
fn forms(secrets: &BTreeSet<String>, user: &str, password: &str) -> Vec<String> {
    let pair = format!("{user}:{password}");
    let mut forms = vec![STANDARD.encode(&pair), URL_SAFE_NO_PAD.encode(&pair)];
    for secret in secrets {
        let json = json!(secret).to_string();
        let json = json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap();
        let encoded = encoded(secret);
        forms.extend([
            secret.clone(),
            encoded.replace("%2F", "%2f").replace("%2B", "%2b").replace("%3D", "%3d"),
            encoded.replace("%2F", "/"),
            self::encoded(&encoded),
            encoded,
            encoded_but(secret, b""),
            // As a part of a key.
            encoded_but(secret, b"-._!$&'()+,;=:@ "),
            json.to_owned(),
            json.replace('/', "\\/"),
            json!(json).to_string().trim_matches('"').to_owned(),
            STANDARD.encode(secret),
            URL_SAFE_NO_PAD.encode(secret),
            format!("{:?}", secret.as_bytes()).trim_matches(['[', ']']).to_owned(),
            hex(secret),
        ]);
    }
    let all: BTreeSet<String> = forms.into_iter().collect();
    all.into_iter().collect()
}

/// The place of all files together.
pub(super) const FILES: &str = "files";

/// What was looked through, and in how much of it a secret was found.
pub(super) struct Search {
    forms: Vec<String>,
    found: Vec<String>,
    /// How much, by place.
    bytes: BTreeMap<String, usize>,
}

impl Search {
    /// For these secrets, and for a user and a password as one.
    pub(super) fn of(secrets: &BTreeSet<String>, user: &str, password: &str) -> Self {
        Self { forms: forms(secrets, user, password), found: Vec::new(), bytes: BTreeMap::new() }
    }

    /// Secrets are ASCII: they stay as they are in whatever is no text.
    pub(super) fn has(&self, bytes: &[u8]) -> Option<&str> {
        let text = String::from_utf8_lossy(bytes);
        self.forms.iter().find(|form| text.contains(form.as_str())).map(String::as_str)
    }

    pub(super) fn look(&mut self, place: &str, bytes: &[u8]) {
        self.look_in(place, place, bytes);
    }

    /// The same, of one of many things in a place.
    fn look_in(&mut self, place: &str, thing: &str, bytes: &[u8]) {
        *self.bytes.entry(place.to_owned()).or_default() += bytes.len();
        if let Some(form) = self.has(bytes) {
            let text = String::from_utf8_lossy(bytes);
            let line = text.lines().find(|line| line.contains(form)).unwrap_or_default();
            let line: String = line.chars().take(600).collect();
            self.found.push(format!("{thing}: `{form}` in {line}"));
        }
    }

    pub(super) fn look_at_files(&mut self, folder: &Path, kept: &BTreeSet<&str>) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                self.look_at_files(&path, kept);
                continue;
            }
            let place = path.display().to_string();
            self.look_in(FILES, &place, place.as_bytes());
            if kind.is_socket() {
                continue;
            }
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                // The node has removed it since it was listed.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => panic!("{place}: {error}"),
            };
            if kept.iter().any(|part| place.contains(part) && !place.ends_with("_manifest.json")) {
                continue;
            }
            let unpacked = decompress(&place, &bytes);
            if unpacked != bytes {
                self.look_in(FILES, &place, &unpacked);
            }
            self.look_in(FILES, &place, &bytes);
        }
    }

    /// Ends the search. `least`: so many bytes were looked at in each of these places, or it could not have found much.
    pub(super) fn ends_clean(self, least: &[(&str, usize)]) {
        for (place, least) in least {
            let bytes = self.bytes.get(*place).copied().unwrap_or_default();
            assert!(
                bytes >= *least,
                "{place}: only {bytes} bytes were looked at: {:?}",
                self.bytes
            );
        }
        assert!(self.found.is_empty(), "{} leaks:\n{}", self.found.len(), self.found.join("\n"));
    }
}

/// Every message of every stream and bucket, by the stream's name.
pub(super) fn stored(nats: &Nats) -> BTreeMap<String, Vec<Vec<u8>>> {
    nats.js(async |js| {
        let mut all = BTreeMap::new();
        let names: Vec<String> = js.stream_names().try_collect().await.unwrap();
        for name in names {
            let stream: Stream = js.get_stream(&name).await.unwrap();
            let state = stream.cached_info().state.clone();
            let messages: &mut Vec<Vec<u8>> = all.entry(name.clone()).or_default();
            // One that never had a message counts from 0 to 0.
            for seq in state.first_sequence.max(1)..=state.last_sequence {
                let message = match stream.get_raw_message(seq).await {
                    Ok(message) => message,
                    // One that was deleted.
                    Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => continue,
                    Err(error) => panic!("{name} {seq}: {error}"),
                };
                let mut bytes = format!("{} {:?} ", message.subject, message.headers).into_bytes();
                bytes.extend_from_slice(&message.payload);
                messages.push(bytes);
            }
            // What is there now was read, but for what has come since.
            let now = js.get_stream(&name).await.unwrap().cached_info().state.clone();
            let since = now.last_sequence - state.last_sequence;
            let read = messages.len() as u64;
            assert!(read + since >= now.messages, "{name}: {read} of {} were read", now.messages);
        }
        all
    })
}

/// Hears all that is sent through the server, until it is dropped.
pub(super) struct Tap {
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    over: Arc<AtomicBool>,
}

impl Tap {
    pub(super) fn on(nats: &Nats) -> Self {
        let heard = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let over = Arc::<AtomicBool>::default();
        let (all, end, url) = (Arc::clone(&heard), Arc::clone(&over), nats.server.url());
        let (ready, is_ready) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let client = async_nats::connect(url).await.unwrap();
                let mut messages = client.subscribe(">").await.unwrap();
                client.flush().await.unwrap();
                ready.send(()).unwrap();
                while !end.load(Ordering::SeqCst) {
                    let next = tokio::time::timeout(Duration::from_millis(100), messages.next());
                    let Ok(Some(message)) = next.await else { continue };
                    let mut bytes =
                        format!("{} {:?} ", message.subject, message.headers).into_bytes();
                    bytes.extend_from_slice(&message.payload);
                    all.lock().unwrap().push(bytes);
                }
            });
        });
        is_ready.recv().unwrap();
        Self { heard, over }
    }

    /// All of it so far.
    pub(super) fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().unwrap().clone()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

/// It finds what it looks for, in every form and in every place.
mod plants {
    use std::io::Write as _;

    use super::*;

    const SECRET: &str = "s3cr3t/of a+run=";

    fn search() -> Search {
        Search::of(&BTreeSet::from([SECRET.to_owned()]), "me", SECRET)
    }

    #[test]
    fn a_secret_is_found_in_every_form() {
        let json = json!(SECRET).to_string();
        let forms = [
            SECRET.to_owned(),
            "s3cr3t%2Fof%20a%2Brun%3D".to_owned(),
            "s3cr3t%2fof%20a%2brun%3d".to_owned(),
            "s3cr3t/of%20a%2Brun%3D".to_owned(),
            "s3cr3t%2Fof a+run=".to_owned(),
            "s3cr3t%252Fof%2520a%252Brun%253D".to_owned(),
            "s3cr3t\\/of a+run=".to_owned(),
            json,
            STANDARD.encode(SECRET),
            STANDARD.encode(format!("me:{SECRET}")),
            URL_SAFE_NO_PAD.encode(SECRET),
            format!("{:?}", SECRET.as_bytes()),
            hex(SECRET),
        ];
        for form in forms {
            for text in [form.clone(), format!("before {form}, behind"), format!("\u{1}{form}")] {
                let mut search = search();
                search.look("here", text.as_bytes());
                assert_eq!(search.found.len(), 1, "{text:?}");
            }
            let mut search = search();
            search.look("here", &[&[0xff, 0xfe][..], form.as_bytes(), &[0xff]].concat());
            assert_eq!(search.found.len(), 1, "{form:?} in what is no text");
        }
        let mut search = search();
        search.look("here", b"s3cr3t/of another run, c2VjcmV0");
        assert!(search.found.is_empty(), "{:?}", search.found);
    }

    #[test]
    fn a_secret_is_found_in_files_and_what_is_packed_in_them() {
        let dir = Dir::empty();
        let lines: String = (0..200)
            .fold(String::new(), |lines, n| lines + &format!("the line {n} of some text\n"));
        let text = format!("{lines}key={SECRET}\n{lines}");
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gz.write_all(text.as_bytes()).unwrap();
        let packed = zstd::encode_all(text.as_bytes(), 3).unwrap();
        let hex = hex(SECRET);
        assert_eq!(search().has(&packed), None, "it is not there as it is");
        fs::create_dir_all(dir.path("data/p/state/deep")).unwrap();
        fs::create_dir_all(dir.path("data/p/bodies")).unwrap();
        for (name, bytes) in [
            ("plain.json", text.clone().into_bytes()),
            ("packed.json.zst", packed.clone()),
            ("packed.json.gz", gz.finish().unwrap()),
            ("state/deep/0.sst", [&[0, 159, 146, 150][..], SECRET.as_bytes()].concat()),
            (&format!("{hex}.json"), b"{}".to_vec()),
            ("bodies/_manifest.json", text.clone().into_bytes()),
            ("bodies/00001.json.zst", packed),
            ("clean.json", b"{}".to_vec()),
        ] {
            dir.write(&format!("data/p/{name}"), bytes);
        }
        let mut search = search();
        search.look_at_files(&dir.path("data"), &BTreeSet::from(["/bodies/"]));
        let found = search.found.join("\n");
        assert!(!found.contains("00001") && !found.contains("clean"), "{found}");
        for name in ["plain.json", ".json.zst", ".json.gz", "0.sst", &hex, "_manifest.json"] {
            assert!(found.contains(name), "{name}: {found}");
        }
        let ends = std::panic::catch_unwind(move || search.ends_clean(&[]));
        assert!(ends.is_err(), "it fails");
        // A file that is there and cannot be read is not clean.
        let unread = Dir::empty();
        fs::create_dir_all(unread.path("data")).unwrap();
        std::os::unix::fs::symlink("itself", unread.path("data/itself")).unwrap();
        let looked = std::panic::catch_unwind(move || {
            self::search().look_at_files(&unread.path("data"), &BTreeSet::new());
        });
        assert!(looked.is_err(), "it fails");
    }

    #[test]
    fn a_search_of_too_little_is_not_clean() {
        let ends = |least: &'static [(&'static str, usize)]| {
            let mut search = search();
            search.look("the log", b"much that is clean");
            std::panic::catch_unwind(move || search.ends_clean(least)).is_ok()
        };
        assert!(ends(&[("the log", 18)]));
        assert!(!ends(&[("the log", 19)]));
        assert!(!ends(&[("the log", 18), (FILES, 1)]), "of one place much, of another nothing");
    }

    #[test]
    fn a_secret_is_found_in_stored_messages_and_in_those_that_were_only_sent() {
        let nats = Nats::start();
        let tap = Tap::on(&nats);
        let config = stream::Config {
            name: "PLANTED".into(),
            subjects: vec!["planted.>".into()],
            ..Default::default()
        };
        nats.js(async |js| {
            // No stream takes it: it is sent, and nobody confirms it.
            let sent = js.publish("only.sent", SECRET.into()).await.unwrap();
            js.create_stream(config).await.unwrap();
            drop(sent);
        });
        let hex = hex(SECRET);
        nats.publish("planted.body", &[], SECRET);
        nats.publish("planted.clean", &[], "clean");
        nats.publish("planted.head", &[("Key", SECRET)], "");
        nats.publish(&format!("planted.{hex}"), &[], "");
        let mut search = search();
        for message in &stored(&nats)["PLANTED"] {
            search.look("stored", message);
        }
        assert_eq!(search.found.len(), 3, "body, header and subject: {:?}", search.found);
        wait_until("the message that was only sent", || {
            let mut search = self::search();
            let sent = tap.heard().into_iter().filter(|message| message.starts_with(b"only.sent"));
            sent.for_each(|message| search.look("sent", &message));
            (search.found.len() == 1).then_some(())
        });
    }
}
