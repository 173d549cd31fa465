//! How far a call may go: one attempt, bounded in each of its parts, and an honest word about whether the
//! provider may have received it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tollgate_emulator::{Emulator, Latency, Profile};

use super::*;

const FAR: Duration = Duration::from_secs(60);

struct Provider {
    emulator: Emulator,
    wire: Wire,
    clock: Clock,
}

impl Provider {
    fn start() -> Self {
        Self::of(Profile { record: true, ..Profile::default() })
    }

    fn of(profile: Profile) -> Self {
        let emulator = Emulator::start(profile).unwrap();
        let clock = Clock::new();
        Self { emulator, wire: Wire::new(clock.clone(), 64).unwrap(), clock }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.emulator.base_url())
    }

    async fn call(&self, path: &str, timeouts: Timeouts) -> Told {
        call(&self.wire, &self.clock, &self.url(path), "x", timeouts, FAR).await
    }

    fn arrived(&self) -> usize {
        self.emulator.calls().len()
    }
}

/// What a call to a listener of the test's own comes to.
async fn call_to(addr: std::net::SocketAddr, timeouts: Timeouts, write_by: Duration) -> Told {
    let clock = Clock::new();
    let wire = Wire::new(clock.clone(), 64).unwrap();
    call(&wire, &clock, &format!("http://{addr}/secret-path?key=secret"), "", timeouts, write_by)
        .await
}

fn took(told: &Told) -> Duration {
    told.head - told.begun
}

/// A listener that takes no more connections: its queue is full.
async fn deaf() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(addr)).await
    {
        queued.push(stream);
        assert!(queued.len() < 100, "this system's queue of connections has no end");
    }
    (listener, queued)
}

#[test]
fn a_connection_that_does_not_come_about_ends_at_the_connect_timeout_unsent() {
    real(|| async {
        let (listener, _queued) = deaf().await;
        let told = call_to(listener.local_addr().unwrap(), timeouts(300, 9000, 9000), FAR).await;
        let took = took(&told);
        let error = told.answer.unwrap_err();
        assert!(matches!(error, CallError::Connect(_)), "{error}");
        assert!(!error.may_have_been_sent());
        assert!((300..3000).contains(&took.as_millis()), "after {took:?}");
        assert!(told.words.is_empty(), "never said to be written: {:?}", told.words);
    });
}

#[test]
fn a_refused_connection_is_unsent_and_its_error_tells_no_secret() {
    real(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let told = call_to(addr, timeouts(3000, 9000, 9000), FAR).await;
        let error = told.answer.unwrap_err();
        assert!(matches!(error, CallError::Connect(_)), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(told.words.is_empty());
    });
}

#[test]
fn a_connection_that_is_ready_only_after_the_permit_lapsed_is_not_written_to() {
    real(|| async {
        let provider = Provider::start();
        let url = provider.url("v1/reports/daily");
        let told = call(
            &provider.wire,
            &provider.clock,
            &url,
            "x",
            timeouts(900, 900, 900),
            Duration::ZERO,
        )
        .await;
        assert_eq!(told.answer.unwrap_err(), CallError::Late);
        assert!(told.words.is_empty(), "{:?}", told.words);
        assert_eq!(provider.arrived(), 0);
        // The same, but ready late: the system repeats its connect after a second, and then it is heard.
        let (listener, queued) = deaf().await;
        let addr = listener.local_addr().unwrap();
        let heard = Rc::new(RefCell::new((0, Vec::new())));
        let hears = Rc::clone(&heard);
        actix_rt::spawn(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            while let Ok((mut stream, _)) = listener.accept().await {
                hears.borrow_mut().0 += 1;
                let hears = Rc::clone(&hears);
                actix_rt::spawn(async move {
                    let mut bytes = Vec::new();
                    stream.read_to_end(&mut bytes).await.ok();
                    hears.borrow_mut().1.extend(bytes);
                });
            }
        });
        let told = call_to(addr, timeouts(5000, 900, 900), Duration::from_millis(300)).await;
        assert_eq!(told.answer.unwrap_err(), CallError::Late);
        assert!(told.words.is_empty(), "{:?}", told.words);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (connections, bytes) = heard.take();
        assert_eq!(connections, queued.len() + 1, "it was connected");
        assert_eq!(bytes, b"", "and not a byte was written");
    });
}

#[test]
fn an_answer_that_does_not_begin_ends_at_the_first_byte_timeout_after_writing() {
    real(|| async {
        let provider = Provider::start();
        for warm in [false, true] {
            if warm {
                let told = provider.call("v1/reports/daily", timeouts(900, 900, 900)).await;
                body(told.answer.unwrap()).await.unwrap();
            }
            let told = provider.call("rude/hang", timeouts(900, 200, 9000)).await;
            let took = took(&told);
            let error = told.answer.unwrap_err();
            assert_eq!(error, CallError::FirstByte(Duration::from_millis(200)));
            assert!(error.may_have_been_sent());
            assert!((200..2000).contains(&took.as_millis()), "after {took:?}");
            assert!(matches!(told.words.last(), Some((Written::At(_), _))), "{:?}", told.words);
        }
    });
}

#[test]
fn a_body_that_stops_ends_at_the_stall_timeout_and_gives_what_came_before() {
    real(|| async {
        let provider = Provider::start();
        let told = provider.call("rude/stall?after=3000", timeouts(900, 900, 250)).await;
        let mut pieces = told.answer.unwrap().body;
        let mut bytes = 0;
        let begun = Instant::now();
        let error = loop {
            match pieces.next().await.unwrap() {
                Ok(piece) => bytes += piece.len(),
                Err(error) => break error,
            }
        };
        assert_eq!(error, CallError::Stall(Duration::from_millis(250)));
        assert_eq!(bytes, 3000);
        assert!(begun.elapsed() >= Duration::from_millis(250));
        assert!(pieces.next().await.is_none(), "nothing comes after the error");
    });
}

#[test]
fn a_slow_reader_is_no_stalled_provider() {
    real(|| async {
        let provider = Provider::start();
        let told = provider.call("rude/big?bytes=400000", timeouts(900, 900, 150)).await;
        let mut pieces = told.answer.unwrap().body;
        let mut bytes = 0;
        let mut pauses = 2;
        while let Some(piece) = pieces.next().await {
            bytes += piece.unwrap().len();
            if pauses > 0 {
                pauses -= 1;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
        assert_eq!(bytes, 400_000);
    });
}

#[test]
fn whatever_breaks_the_connection_is_one_attempt_that_may_have_been_sent() {
    real(|| async {
        let provider = Provider::start();
        for (place, path) in ["rude/reset", "rude/garbage"].into_iter().enumerate() {
            let told = provider.call(path, timeouts(900, 900, 900)).await;
            let error = told.answer.unwrap_err();
            assert!(matches!(error, CallError::Broken(_)), "{path}: {error}");
            assert!(error.may_have_been_sent());
            assert_eq!(provider.arrived(), place + 1, "{path}: nothing is sent again");
        }
        for path in ["rude/reset-mid", "rude/short"] {
            let told = provider.call(path, timeouts(900, 900, 900)).await;
            let error = body(told.answer.unwrap()).await.unwrap_err();
            assert!(matches!(error, CallError::Broken(_)), "{path}: {error}");
        }
        assert_eq!(provider.arrived(), 4);
    });
}

#[test]
fn a_connection_that_breaks_under_a_written_request_is_not_called_again() {
    // A server that takes the request on a warm connection and closes without a word.
    real(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let requests = Rc::new(RefCell::new(0));
        let counted = Rc::clone(&requests);
        actix_rt::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let counted = Rc::clone(&counted);
                actix_rt::spawn(async move {
                    let mut bytes = [0; 4096];
                    for answer in ["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", ""] {
                        if stream.read(&mut bytes).await.unwrap_or(0) == 0 {
                            return;
                        }
                        *counted.borrow_mut() += 1;
                        stream.write_all(answer.as_bytes()).await.ok();
                    }
                });
            }
        });
        let clock = Clock::new();
        let wire = Wire::new(clock.clone(), 64).unwrap();
        let url = format!("http://{addr}/");
        let first = call(&wire, &clock, &url, "", timeouts(900, 900, 900), FAR).await;
        body(first.answer.unwrap()).await.unwrap();
        let second = call(&wire, &clock, &url, "", timeouts(900, 900, 900), FAR).await;
        let error = second.answer.unwrap_err();
        assert!(matches!(error, CallError::Broken(_)), "{error}");
        assert_eq!(*requests.borrow(), 2);
    });
}

#[test]
fn a_request_that_goes_once_is_said_to_be_written_once_though_its_kept_connection_is_closed() {
    // A server that says that it keeps each connection, and closes it; the client is kept from seeing that.
    real(|| async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut bytes = [0; 4096];
                if std::io::Read::read(&mut stream, &mut bytes).is_ok_and(|read| read > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                    std::io::Write::write_all(&mut stream, answer).ok();
                }
            }
        });
        let clock = Clock::new();
        let wire = Wire::new(clock.clone(), 64).unwrap();
        let url = format!("http://{addr}/");
        let mut answers = 0;
        for round in 0..60 {
            let write_by = clock.now().plus(Span::from(FAR));
            let bounds = CallBounds { timeouts: timeouts(9000, 9000, 9000), write_by, once: true };
            let told = call_within(&wire, &url, "", bounds).await;
            let written = matches!(told.words[..], [] | [(Written::At(_), _)]);
            assert!(written, "round {round}: {:?}", told.words);
            match told.answer {
                Ok(answer) => {
                    body(answer).await.unwrap();
                    answers += 1;
                }
                // Not sent, or lost with the connection.
                Err(CallError::Late | CallError::Broken(_)) => {}
                Err(error) => panic!("round {round}: {error}"),
            }
            // Its end comes while nobody looks, sooner or later.
            let until = Instant::now() + Duration::from_micros(fastrand::u64(0..400));
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        }
        assert!(answers > 20, "{answers}");
    });
}

#[test]
fn a_redirect_is_an_answer_and_not_followed() {
    real(|| async {
        let provider = Provider::start();
        let told =
            provider.call("rude/redirect?to=/v1/reports/daily", timeouts(900, 900, 900)).await;
        assert_eq!(told.answer.unwrap().status, 302);
        assert_eq!(provider.arrived(), 1);
    });
}

#[test]
fn a_call_that_is_dropped_ends() {
    real(|| async {
        let provider = Provider::start();
        let call = provider.call("rude/hang", timeouts(900, 60_000, 900));
        assert!(tokio::time::timeout(Duration::from_millis(100), call).await.is_err());
        let told = provider.call("v1/reports/daily", timeouts(900, 900, 900)).await;
        assert_eq!(told.answer.unwrap().status, 200);
    });
}

/// Counts the requests that come, each of which is answered; none has a body.
async fn counting() -> (std::net::SocketAddr, Rc<std::cell::Cell<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let count = Rc::new(std::cell::Cell::new(0));
    let counted = Rc::clone(&count);
    actix_rt::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counted = Rc::clone(&counted);
            actix_rt::spawn(async move {
                let mut request = [0; 4096];
                while matches!(stream.read(&mut request).await, Ok(1..)) {
                    counted.set(counted.get() + 1);
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.ok();
                }
            });
        }
    });
    (addr, count)
}

/// As SIGSTOP does: nothing on this thread goes on.
#[expect(clippy::disallowed_methods, reason = "that it blocks is the point")]
fn stop(so_long: Duration) {
    std::thread::sleep(so_long);
}

#[test]
fn a_process_that_is_stopped_before_it_writes_does_not_write_when_it_goes_on() {
    real(|| async {
        let (addr, count) = counting().await;
        let clock = Clock::new();
        let wire = Wire::new(clock.clone(), 64).unwrap();
        let url = format!("http://{addr}/");
        let far = timeouts(9000, 9000, 9000);
        let ms = Duration::from_millis;
        for round in 1..=3 {
            let told = call(&wire, &clock, &url, "", far, FAR).await;
            body(told.answer.unwrap()).await.unwrap();
            tokio::time::sleep(ms(5)).await;
            assert_eq!(count.get(), round, "the connection is warm from the second on");
            // Polled after the call, and before the connection's task has its turn.
            let stopped = async { stop(ms(2010)) };
            let late = call(&wire, &clock, &url, "", far, ms(30));
            let (told, ()) = futures_util::join!(late, stopped);
            assert_eq!(told.answer.unwrap_err(), CallError::Stopped);
            tokio::time::sleep(ms(20)).await;
            assert_eq!(count.get(), round, "it was written all the same");
        }
    });
}

#[test]
fn an_answer_that_comes_after_the_time_of_writing_is_taken() {
    real(|| async {
        let latency = Latency::Range(Duration::from_millis(200), Duration::from_millis(210));
        let profile = Profile { record: true, latency, ..Profile::default() };
        let provider = Provider::of(profile);
        let far = timeouts(9000, 9000, 9000);
        provider.call("v1/reports/daily", far).await.answer.unwrap();
        let url = provider.url("v1/reports/daily");
        let write_by = Duration::from_millis(300);
        // Stopped once it was written, and before its answer.
        let stopped = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            stop(Duration::from_millis(2100));
        };
        let late = call(&provider.wire, &provider.clock, &url, "x", far, write_by);
        let (told, ()) = futures_util::join!(late, stopped);
        told.answer.unwrap();
        assert_eq!(provider.arrived(), 2);
    });
}
