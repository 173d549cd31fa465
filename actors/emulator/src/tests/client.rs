//! A client that believes nothing: it shows what came over the wire.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// One connection, kept alive.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) stream: BufReader<TcpStream>,
}

/// One answer.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Got {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl Client {
    pub(super) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        let client = Self { stream: BufReader::new(stream) };
        client.patience(Duration::from_secs(10));
        client
    }

    /// How long a read waits until it fails with `WouldBlock`.
    pub(super) fn patience(&self, patience: Duration) {
        self.stream.get_ref().set_read_timeout(Some(patience)).unwrap();
    }

    pub(super) fn get(&mut self, account: &str, path: &str) -> io::Result<Got> {
        self.get_with(account, path, "")
    }

    pub(super) fn get_with(&mut self, account: &str, path: &str, more: &str) -> io::Result<Got> {
        self.send(account, path, more)?;
        self.receive()
    }

    pub(super) fn send(&mut self, account: &str, path: &str, more: &str) -> io::Result<()> {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: emulator\r\nX-Account: {account}\r\n{more}\r\n");
        self.stream.get_mut().write_all(request.as_bytes())
    }

    pub(super) fn receive(&mut self) -> io::Result<Got> {
        let mut got = self.head()?;
        if got.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(&self.line()?, 16).map_err(io::Error::other)?;
                let start = got.body.len();
                got.body.resize(start + size, 0);
                self.stream.read_exact(&mut got.body[start..])?;
                self.line()?;
                if size == 0 {
                    return Ok(got);
                }
            }
        }
        let length = got.header("content-length").map_or(0, |length| length.parse().unwrap());
        got.body.resize(length, 0);
        self.stream.read_exact(&mut got.body)?;
        Ok(got)
    }

    /// The head only; the body is left on the wire.
    pub(super) fn head(&mut self) -> io::Result<Got> {
        let status = self.line()?;
        let status = status.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status = status.and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("this is not HTTP"))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(": ") else {
                return Ok(Got { status, headers, body: Vec::new() });
            };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
