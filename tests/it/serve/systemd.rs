//! `tollgate serve` as systemd starts it.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::stop;
use crate::util::{Config, Dir, Nats, wait_until};

/// What was told, a message each.
fn heard(socket: &UnixDatagram) -> Vec<String> {
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match socket.recv(&mut buffer) {
            Ok(bytes) => heard.push(String::from_utf8_lossy(&buffer[..bytes]).into_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return heard,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn systemd_hears_when_a_node_is_up_that_it_turns_what_it_waits_for_and_that_it_ends() {
    let nats = Nats::start();
    // A provider that nobody calls.
    let config = Config::at("http://127.0.0.1:9/").on(&nats).report();
    let dir = Dir::with(&config);
    let path = dir.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let node = dir
        .tollgate(&["serve"])
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "400000")
        .start();
    let mut all = Vec::new();
    wait_until("the node tells that it is up", || {
        all.extend(heard(&socket));
        all.iter().any(|told| told.contains("STATUS=collecting")).then_some(())
    });
    let ups = all.iter().filter(|told| told.lines().any(|line| line == "READY=1")).count();
    assert_eq!(ups, 1, "{all:?}");
    assert!(all[0].contains("STATUS=starting: "), "{all:?}");
    assert!(all[0].contains("EXTEND_TIMEOUT_USEC="), "{all:?}");

    // Stopped, it tells nothing, and systemd would kill it; then it goes on.
    node.signal("STOP");
    std::thread::sleep(Duration::from_millis(100));
    heard(&socket);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(heard(&socket), [""; 0]);
    node.signal("CONT");
    wait_until("its shards turn", || {
        heard(&socket).iter().any(|told| told.contains("WATCHDOG=1")).then_some(())
    });

    stop(node);
    let last = heard(&socket);
    let ends = last.iter().filter(|told| told.contains("STOPPING=1")).count();
    assert_eq!(ends, 1, "{last:?}");
    assert!(!last.iter().any(|told| told.contains("READY=1")), "{last:?}");
}
