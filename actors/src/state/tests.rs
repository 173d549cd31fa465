use std::time::Duration;

use tempfile::TempDir;

use super::*;

fn open(folder: &TempDir) -> Result<State, StateError> {
    State::open(folder.path(), Options::default())
}

/// Writes a format into the table `meta`, as another version of the program would.
async fn set_format(state: &State, format: u32) {
    let set = state.call(move |turn| {
        let tables = turn.tables;
        turn.put(&tables.meta, "format", format.to_be_bytes());
        Ok(())
    });
    set.await.expect("it is stored");
}

#[tokio::test]
async fn a_folder_has_one_user_at_a_time() {
    let folder = TempDir::new().expect("a folder");
    let state = open(&folder).expect("it opens");
    let second = open(&folder).expect_err("the first one is there");
    assert!(matches!(second, StateError::Locked { .. }));
    let text = second.to_string();
    assert!(text.contains("another tollgate runs there"), "{text}");
    assert!(text.contains(&folder.path().display().to_string()), "{text}");
    state.close().await;
    open(&folder).expect("it is free now").close().await;
}

#[tokio::test]
async fn the_last_handle_gives_the_folder_up() {
    let folder = TempDir::new().expect("a folder");
    let state = open(&folder).expect("it opens");
    let other = state.clone();
    drop(state);
    assert!(matches!(open(&folder), Err(StateError::Locked { .. })));
    drop(other);
    // Nobody is left who could be told when the thread has ended.
    let reopened = async {
        loop {
            match open(&folder) {
                Ok(state) => return state,
                Err(StateError::Locked { .. }) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(other) => panic!("{other}"),
            }
        }
    };
    let reopened = tokio::time::timeout(Duration::from_secs(20), reopened).await;
    reopened.expect("it is given up").close().await;
}

#[tokio::test]
async fn the_name_is_drawn_once_per_folder() {
    let (one, other) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let state = open(&one).expect("it opens");
    let name = state.name();
    assert_eq!(name.len(), 16);
    assert!(name.bytes().all(|byte| byte.is_ascii_hexdigit()));
    state.close().await;
    let state = open(&one).expect("it opens");
    assert_eq!(state.name(), name);
    let state = open(&other).expect("it opens");
    assert_ne!(state.name(), name);
}

#[tokio::test]
async fn a_session_is_of_one_opening() {
    let folder = TempDir::new().expect("a folder");
    let state = open(&folder).expect("it opens");
    let session = state.session();
    state.close().await;
    assert_ne!(open(&folder).expect("it opens").session(), session);
}

#[tokio::test]
async fn another_format_is_refused_and_left_alone() {
    let folder = TempDir::new().expect("a folder");
    let state = open(&folder).expect("it opens");
    set_format(&state, 7).await;
    state.close().await;
    for _ in 0..2 {
        let refused = open(&folder).expect_err("it is another format");
        assert!(matches!(refused, StateError::Format { found: 7, expected: 1, .. }), "{refused}");
    }
}

#[tokio::test]
async fn what_a_killed_making_left_is_made_anew() {
    let folder = TempDir::new().expect("a folder");
    let unfinished = folder.path().join("db-new");
    std::fs::create_dir_all(&unfinished).expect("a folder");
    std::fs::write(unfinished.join("0.jnl"), b"cut sh").expect("a file");
    open(&folder).expect("it opens").close().await;
    assert!(!unfinished.exists());
}

#[tokio::test]
async fn a_job_sees_what_an_earlier_one_wrote_before_its_commit() {
    let folder = TempDir::new().expect("a folder");
    let state = open(&folder).expect("it opens");
    let jobs = (0..500).map(|_| {
        state.call(|turn| {
            let tables = turn.tables;
            let value = turn.get(&tables.ledger, b"counter")?;
            let count =
                value.map_or(0, |value| u64::from_be_bytes(value[..].try_into().expect("8")));
            turn.put(&tables.ledger, "counter", (count + 1).to_be_bytes());
            Ok(count)
        })
    });
    let counts = futures_util::future::join_all(jobs).await;
    let mut counts: Vec<_> = counts.into_iter().map(|count| count.expect("it is done")).collect();
    counts.sort_unstable();
    assert!(counts.into_iter().eq(0..500), "each job must see the one before");
}

#[tokio::test]
async fn close_does_what_was_asked_before_it_and_refuses_what_comes_later() {
    let folder = TempDir::new().expect("a folder");
    let state = open(&folder).expect("it opens");
    let put = |key: u64| {
        let state = state.clone();
        async move {
            let put = state.call(move |turn| {
                let tables = turn.tables;
                turn.put(&tables.ledger, key.to_be_bytes(), "x");
                Ok(())
            });
            put.await
        }
    };
    let puts: Vec<_> = (0..200).map(|key| tokio::spawn(put(key))).collect();
    tokio::task::yield_now().await;
    state.clone().close().await;
    let mut done = 0;
    for put in puts {
        match put.await.expect("no panic") {
            Ok(()) => done += 1,
            Err(Failure::Refused(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(matches!(put(1000).await, Err(Failure::Refused(_))));
    drop(state);
    let state = open(&folder).expect("it opens");
    let count = state.call(|turn| Ok(turn.range(&turn.tables.ledger, &[], &[255; 9]).count()));
    assert_eq!(count.await.expect("it answers"), done);
}

#[tokio::test]
async fn a_failed_job_leaves_the_others_of_its_group() {
    let folder = TempDir::new().expect("a folder");
    let state = open(&folder).expect("it opens");
    let good = |key: &'static str| {
        state.call(move |turn| {
            let tables = turn.tables;
            turn.put(&tables.ledger, key, "x");
            Ok(())
        })
    };
    let bad = state.call(|_| Err::<(), _>(Failure::Corrupt("as a test wants".into())));
    let (one, bad, other) = tokio::join!(good("one"), bad, good("other"));
    assert!(one.is_ok() && other.is_ok());
    assert!(matches!(bad, Err(Failure::Corrupt(_))));
    assert!(state.failed().is_none());
}

#[test]
fn moments_are_rounded_so_that_nothing_comes_early() {
    let ceil = |text: &str| clock::ceil_ms(text.parse().expect("a moment"));
    assert_eq!(ceil("1970-01-01T00:00:01Z"), 1000);
    assert_eq!(ceil("1970-01-01T00:00:01.000000001Z"), 1001);
    assert_eq!(ceil("1970-01-01T00:00:01.001Z"), 1001);
    assert_eq!(ceil("1960-01-01T00:00:00Z"), 0);
}

#[test]
fn this_machine_names_its_boot_and_its_clock_goes_on() {
    assert_ne!(clock::Boot::read(), clock::Boot::UNKNOWN);
    assert_eq!(clock::Boot::read(), clock::Boot::read());
    let before = clock::boot_ns();
    assert!(clock::boot_ns() >= before && before > 0);
}

#[test]
fn both_clocks_are_read_at_one_moment_on_a_busy_machine() {
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let (first, start) = clock::wall_and_instant();
        let until = start + Duration::from_millis(1500);
        let (mut reads, mut worst) = (0, 0);
        while tokio::time::Instant::now() < until {
            let (wall, instant) = clock::wall_and_instant();
            let by_instant = first + (instant - start);
            worst = worst.max((wall.as_nanosecond() - by_instant.as_nanosecond()).abs());
            reads += 1;
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        println!("{reads} reads, {worst} ns apart at most");
        assert!(reads > 1000, "{reads}");
        assert!(worst < 500_000, "{worst} ns of {reads} reads");
    });
}
