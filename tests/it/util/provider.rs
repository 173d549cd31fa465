//! A provider of a test's own: each call is answered by a function, on real sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A call as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// When its head was whole.
    pub(crate) at: Instant,
    /// Path and query.
    pub(crate) target: String,
    /// Lines of the head as they came, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
}

impl Asked {
    /// A parameter of the query, as it came.
    pub(crate) fn query(&self, name: &str) -> String {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The path without its slash and its query.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default().trim_start_matches('/')
    }
}

/// What a call is answered.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    /// Status, further headers, body.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The connection is closed without a word.
    Nothing,
    /// The same after this time.
    NothingAfter(Duration),
}

impl Told {
    pub(crate) fn json(body: &serde_json::Value) -> Self {
        Self::of(200, "application/json", body.to_string())
    }

    pub(crate) fn of(status: u16, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::Answer(status, vec![("Content-Type", kind.to_owned())], body.into())
    }
}

/// A server until the test ends.
#[derive(Debug)]
pub(crate) struct Provider {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Provider {
    /// `answer` is given each call and how many came before it.
    pub(crate) fn start(answer: impl Fn(&Asked, usize) -> Told + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (all, answer) = (Arc::clone(&asked), Arc::new(answer));
        // Ends with the process: a test that is over asks nothing more.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (all, answer) = (Arc::clone(&all), Arc::clone(&answer));
                thread::spawn(move || serve(&stream, &all, &*answer));
            }
        });
        Self { port, asked }
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Every call so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// How often that path was called, by that account if one is named.
    pub(crate) fn count(&self, path: &str, account: Option<&str>) -> usize {
        let of = |call: &&Asked| {
            call.path() == path && account.is_none_or(|name| call.header("x-account") == Some(name))
        };
        self.asked().iter().filter(of).count()
    }
}

fn serve(stream: &TcpStream, all: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked, usize) -> Told) {
    let mut lines = BufReader::new(stream);
    let mut first = String::new();
    if lines.read_line(&mut first).is_err() || first.is_empty() {
        return;
    }
    let mut words = first.split_whitespace();
    let target = words.nth(1).unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
        if name == "content-length" {
            length = value.parse().unwrap_or(0);
        }
        headers.push((name, value));
    }
    let at = Instant::now();
    lines.take(length).read_to_end(&mut Vec::new()).ok();
    let call = Asked { at, target, headers };
    let before = {
        let mut all = all.lock().unwrap();
        all.push(call.clone());
        all.len() - 1
    };
    let mut stream = stream;
    match answer(&call, before) {
        Told::Nothing => {}
        Told::NothingAfter(wait) => thread::sleep(wait),
        Told::Answer(status, headers, body) => {
            let mut head = format!(
                "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n",
                body.len()
            );
            for (name, value) in headers {
                head += &format!("{name}: {value}\r\n");
            }
            head += "\r\n";
            stream.write_all(head.as_bytes()).ok();
            stream.write_all(&body).ok();
        }
    }
}
