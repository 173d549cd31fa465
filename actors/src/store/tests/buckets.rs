//! What every store must do, on each of them, and what every bucket must do when its server makes trouble or its
//! credentials end.

use std::time::SystemTime;

use super::servers::{ACCOUNT, ACCOUNT_KEY, Azurite, CONTAINER, Front, Google, Sessions, TOKEN};
use super::*;
use crate::plan::{AzureCredentials, GoogleCredentials};
use crate::store::conformance;

fn kind(result: &Result<impl std::fmt::Debug, SinkError>) -> StoreErrorKind {
    match result {
        Err(SinkError::Store { kind, .. }) => *kind,
        other => panic!("{other:?}"),
    }
}

/// All that an error says, as a log shows it.
fn said(result: &Result<impl std::fmt::Debug, SinkError>) -> String {
    let Err(error) = result else { panic!("{result:?}") };
    let mut text = format!("{error:?}");
    let mut next = Some(error as &dyn std::error::Error);
    while let Some(error) = next {
        writeln_to(&mut text, error);
        next = error.source();
    }
    text
}

fn writeln_to(text: &mut String, error: &dyn std::error::Error) {
    use std::fmt::Write;
    writeln!(text, "{error}").unwrap();
}

#[tokio::test]
async fn files_keep_every_promise_of_a_store() {
    let (store, folder) = files();
    conformance::all(&store).await;
    assert!(names(folder.path()).iter().all(|name| !name.contains('#')), "nothing is staged");
}

#[tokio::test]
async fn memory_keeps_every_promise_of_a_store() {
    conformance::all(&memory()).await;
}

#[tokio::test]
async fn a_bucket_of_s3_keeps_every_promise_of_a_store() {
    let (store, server) = bucket();
    conformance::all(&store).await;
    until("no upload is left", || server.uploads() == 0 && server.parts().is_empty()).await;
}

/// By hand, on any server that speaks S3: `TOLLGATE_TEST_S3="ENDPOINT BUCKET REGION ID SECRET" cargo test -p
/// tollgate-actors --lib a_server_of_your_own -- --ignored`.
#[tokio::test]
#[ignore = "needs a server"]
async fn a_server_of_your_own_keeps_every_promise_of_a_store() {
    let told = std::env::var("TOLLGATE_TEST_S3").expect("TOLLGATE_TEST_S3 names a server");
    let words: Vec<&str> = told.split_whitespace().collect();
    let [endpoint, bucket, region, id, secret] = words[..] else { panic!("five words") };
    let keys = S3Credentials::Keys {
        id: id.to_owned().into(),
        secret: secret.to_owned().into(),
        token: None,
    };
    let provider = Provider::S3 { region: region.to_owned(), path_style: true, credentials: keys };
    let store = open_bucket(&plan_of(bucket, endpoint, provider));
    conformance::all(&store).await;
}

#[tokio::test]
async fn a_bucket_of_google_keeps_every_promise_of_a_store() {
    let server = Google::start();
    conformance::all(&google(&server, TOKEN)).await;
    until("no upload is left", || server.uploads() == 0).await;
    assert!(server.front.seen("PUT part") > 10, "large bodies have parts");
    let keys = server.keys();
    assert!(keys.iter().all(|key| key.starts_with(PREFIX)), "{keys:?}");
}

#[tokio::test]
async fn a_container_of_azure_keeps_every_promise_of_a_store() {
    let server = Azurite::start();
    conformance::all(&azure(&server, key(ACCOUNT_KEY))).await;
    assert!(server.front.seen("PUT part") > 10, "large bodies have parts");
}

fn google(server: &Google, token: &str) -> Store {
    google_in(server, CONTAINER, token)
}

fn google_in(server: &Google, bucket: &str, token: &str) -> Store {
    let token = GoogleCredentials::Token(token.to_owned().into());
    open_bucket(&plan_of(bucket, &server.front.endpoint(), Provider::Google(token)))
}

fn key(key: &str) -> AzureCredentials {
    AzureCredentials::Key(key.to_owned().into())
}

fn azure(server: &Azurite, credentials: AzureCredentials) -> Store {
    azure_in(server, CONTAINER, credentials)
}

fn azure_in(server: &Azurite, container: &str, credentials: AzureCredentials) -> Store {
    let provider = Provider::Azure { account: ACCOUNT.to_owned(), credentials };
    open_bucket(&plan_of(container, &server.endpoint(), provider))
}

/// Refused in every way that a body, a small object and a probe go.
async fn assert_denied(store: &Store, hidden: &str) {
    let small = store.put_small(&Path::from("k"), Bytes::from_static(b"x")).await;
    let large = send(store, "k", plain(Codec::None), &report(6 * MIB, 1), &[MIB]).await;
    let probe = store.probe().await;
    assert_eq!(kind(&small), StoreErrorKind::Denied, "{small:?}");
    assert_eq!(kind(&large), StoreErrorKind::Denied, "{large:?}");
    assert_eq!(kind(&probe), StoreErrorKind::Denied, "{probe:?}");
    let said = said(&small) + &self::said(&large) + &self::said(&probe);
    assert!(hidden.is_empty() || !said.contains(hidden), "{said}");
}

/// A storm of 503 that ends is ridden out, by small objects and in the middle of large ones.
async fn assert_rides_out(store: &Store, front: &Front) {
    front.trouble().slow_down_one_in = 3;
    let bodies = (0..12_u64).map(|i| async move {
        let body = report(if i == 0 { 6 * MIB } else { 1000 }, i);
        send(store, &format!("storm/{i}"), plain(Codec::None), &body, &[100_000]).await.unwrap()
    });
    let stored = futures_util::future::join_all(bodies).await;
    // And one that refuses everything for a while.
    {
        let mut trouble = front.trouble();
        (trouble.slow_down_one_in, trouble.slow_down) = (0, 4);
    }
    store.put_small(&Path::from("storm/last"), Bytes::from_static(b"{}")).await.unwrap();
    assert_eq!(front.trouble().slow_down, 0);
    for (i, stored) in (0_u64..).zip(&stored) {
        let body = report(if i == 0 { 6 * MIB } else { 1000 }, i);
        assert!(object(store, &stored.key).await.unwrap() == body, "{i}");
    }
}

/// The answer to the end of an upload is lost, and asked for again there is no such upload: the object is there.
async fn assert_ends_although_nobody_hears(store: &Store, front: &Front) {
    // The last is of the same size as the one that it takes the place of.
    for (seed, size) in [(1, 7 * MIB), (2, 11 * MIB), (3, 11 * MIB)] {
        front.trouble().loses_ends = 1;
        let body = report(size, seed);
        send_and_check(store, "unheard", plain(Codec::None), &body, &body, &[MIB]).await;
        assert_eq!(front.trouble().loses_ends, 0, "it came to that");
    }
}

/// The error says what is wrong and what to do about it.
async fn assert_tells_the_clock(store: &Store, front: &Front, status: u16, body: &str) {
    front.trouble().says = Some((status, body.to_owned()));
    let refused = store.put_small(&Path::from("k"), Bytes::from_static(b"x")).await;
    assert_eq!(kind(&refused), StoreErrorKind::Clock, "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("set this machine's clock"));
    front.trouble().says = None;
}

#[tokio::test]
async fn google_that_refuses_is_slow_or_disagrees_about_the_time_is_understood() {
    let server = Google::start();
    let store = google(&server, TOKEN);
    assert_denied(&google(&server, "t0ken-of-another"), "t0ken-of-another").await;
    assert_denied(&google_in(&server, "nowhere", TOKEN), TOKEN).await;
    assert_rides_out(&store, &server.front).await;
    let body = "<?xml version='1.0'?><Error><Code>AuthenticationRequired</Code><Message>Invalid JWT: Token must be \
                a short-lived token (60 minutes) and in a reasonable timeframe.</Message></Error>";
    assert_tells_the_clock(&store, &server.front, 401, body).await;
    assert_ends_although_nobody_hears(&store, &server.front).await;

    // Forgotten as a kill forgets it: nobody aborts it.
    let mut sink = store.sink(Path::from("left&1"), plain(Codec::None));
    sink.write(Bytes::from(report(11 * MIB, 1))).await.unwrap();
    until("a part is there", || server.keys().iter().any(|key| key.starts_with(".parts/"))).await;
    std::mem::forget(sink);
    assert_eq!((server.uploads(), store.size(&Path::from("left&1")).await.unwrap()), (1, None));
    let day = Duration::from_secs(24 * 3600);
    let now = file_time();
    let young = store.clean_leftovers(now - day).await;
    assert_eq!((young.removed, young.seen, young.complete), (0, 1, true), "{young:?}");
    server.age_uploads(25);
    let cleaned = store.clean_leftovers(now - day).await;
    assert_eq!((cleaned.removed, cleaned.trouble), (1, None));
    assert_eq!(server.uploads(), 0);
    assert!(server.keys().iter().all(|key| !key.starts_with(".parts/")));

    // An upload that is gone is not mistaken for a former one, though that has its size.
    let (old, new) = (report(11 * MIB, 3), report(11 * MIB, 4));
    let mut sink = store.sink(Path::from("unheard"), plain(Codec::None));
    sink.write(Bytes::from(new)).await.unwrap();
    let sealed = sink.seal().await.unwrap();
    server.front.trouble().uploads.clear();
    let failed = sealed.complete().await;
    assert_eq!(kind(&failed), StoreErrorKind::Other);
    assert!(object(&store, &Path::from("unheard")).await.unwrap() == old);
}

/// The time now, as a file bears it.
fn file_time() -> SystemTime {
    tempfile::NamedTempFile::new().unwrap().as_file().metadata().unwrap().modified().unwrap()
}

#[tokio::test]
async fn azure_that_refuses_is_slow_or_disagrees_about_the_time_is_understood() {
    let server = Azurite::start();
    let store = azure(&server, key(ACCOUNT_KEY));
    assert_denied(&azure(&server, key("d3Jvbmcta2V5")), "d3Jvbmcta2V5").await;
    assert_denied(&azure_in(&server, "nowhere", key(ACCOUNT_KEY)), ACCOUNT_KEY).await;
    // A signature is part of each URL.
    let sas =
        "sv=2024-11-04&ss=b&srt=sco&sp=rwdlac&se=2020-01-01T00:00:00Z&sig=c2VjcmV0LXNpZw%3D%3D";
    let sas = || AzureCredentials::Sas(sas.to_owned().into());
    assert_denied(&azure(&server, sas()), "c2VjcmV0LXNpZw").await;
    assert_rides_out(&store, &server.front).await;
    let body = "\u{feff}<?xml version=\"1.0\"?><Error><Code>AuthenticationFailed</Code><Message>Server failed to \
                authenticate the request.</Message><AuthenticationErrorDetail>Request date header too old: 'x'\
                </AuthenticationErrorDetail></Error>";
    assert_tells_the_clock(&store, &server.front, 403, body).await;
    assert_ends_although_nobody_hears(&store, &server.front).await;

    // What was not committed shows nowhere; Azure drops it, and whoever writes the key does.
    let key = Path::from("left/1");
    let mut sink = store.sink(key.clone(), plain(Codec::None));
    sink.write(Bytes::from(report(11 * MIB, 1))).await.unwrap();
    std::mem::forget(sink);
    assert_eq!(store.size(&key).await.unwrap(), None);
    assert!(!store.keys(1000).await.unwrap().contains(&key));
    let cleaned = store.clean_leftovers(SystemTime::UNIX_EPOCH).await;
    assert_eq!((cleaned.removed, cleaned.complete, cleaned.trouble), (0, true, None));
    let body = report(6 * MIB, 2);
    send_and_check(&store, "left/1", plain(Codec::None), &body, &body, &[MIB]).await;

    // A server that is gone says nothing of who asked either.
    drop(server);
    let gone = "http://127.0.0.1:9".to_owned();
    let provider = Provider::Azure { account: ACCOUNT.to_owned(), credentials: sas() };
    let away = open_bucket(&plan_of(CONTAINER, &gone, provider)).probe().await;
    assert_eq!(kind(&away), StoreErrorKind::Away);
    assert!(!said(&away).contains("c2VjcmV0LXNpZw"), "{}", said(&away));
}

#[tokio::test]
async fn an_end_in_s3_that_nobody_hears_of_is_found() {
    let server = S3Server::start();
    let front = Front::of_s3(&server.direct());
    assert_ends_although_nobody_hears(&bucket_at(&front.endpoint()), &front).await;
}

/// A store in a bucket of S3 whose keys a container's service gives, and the proxy that is both.
fn with_sessions(server: &S3Server, sessions: Sessions) -> (Store, Front, tempfile::NamedTempFile) {
    let front = Front::of_s3(&server.direct());
    front.trouble().sessions = Some(sessions);
    let mut token = tempfile::NamedTempFile::new().unwrap();
    write!(token, "who-asks").unwrap();
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/credentials", front.endpoint())),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.path().to_str().unwrap().to_owned()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let plan = s3_plan(&front.endpoint(), S3Credentials::Ambient(variables));
    (open_bucket(&plan), front, token)
}

const MINUTES: Duration = Duration::from_secs(900);

/// A body whose parts go out over so long.
async fn send_slowly(store: &Store, key: &str, took: Duration) {
    let body = report(11 * MIB, 7);
    let mut sink = store.sink(Path::from(key), plain(Codec::None));
    for piece in body.chunks(MIB) {
        sink.write(Bytes::copy_from_slice(piece)).await.unwrap();
        tokio::time::sleep(took / 11).await;
    }
    let stored = sink.finish().await.unwrap();
    assert!(object(store, &stored.key).await.unwrap() == body);
}

#[tokio::test]
async fn sessions_that_end_within_a_body_are_renewed_before_they_do() {
    let server = S3Server::start();
    let life = Duration::from_secs(2);
    let (store, front, _token) = with_sessions(&server, Sessions::new(life, life));
    send_slowly(&store, "k", Duration::from_secs(4)).await;
    let trouble = front.trouble();
    let sessions = trouble.sessions.as_ref().unwrap();
    assert!(sessions.given.len() >= 3, "{sessions:?}");
}

/// Revoked, or one of the clocks is off: the store refuses what was said to be good for long.
#[tokio::test]
async fn sessions_that_end_sooner_than_was_said_lose_no_write() {
    let server = S3Server::start();
    let (store, front, _token) =
        with_sessions(&server, Sessions::new(Duration::from_secs(3), MINUTES));
    send_slowly(&store, "k", Duration::from_secs(8)).await;
    {
        let trouble = front.trouble();
        let sessions = trouble.sessions.as_ref().unwrap();
        // How many ended in so many seconds depends on how many requests there were.
        assert!(sessions.refused >= 1, "it came to that: {sessions:?}");
        assert!((2..20).contains(&sessions.given.len()), "not one for each request: {sessions:?}");
    }
    // Nor does any other way to an object.
    let key = Path::from("small");
    let ended = Duration::from_millis(3100);
    for turn in 0..2 {
        tokio::time::sleep(ended).await;
        store.put_small(&key, Bytes::from_static(b"x")).await.unwrap();
        tokio::time::sleep(ended).await;
        assert_eq!(store.size(&key).await.unwrap(), Some(1), "{turn}");
        tokio::time::sleep(ended).await;
        let below = store.below(&Path::default(), None, 10).await.unwrap();
        assert_eq!(below.len(), 2, "{turn}: {below:?}");
        tokio::time::sleep(ended).await;
        let cleaned = store.clean_leftovers(SystemTime::UNIX_EPOCH).await;
        assert!(
            !cleaned.trouble.clone().unwrap_or_default().contains("ExpiredToken"),
            "{cleaned:?}"
        );
        store.delete(&key).await.unwrap();
    }
    // Ones that are never good are asked for once more, and then it is said.
    front.trouble().sessions.as_mut().unwrap().life = Duration::ZERO;
    tokio::time::sleep(ended).await;
    let refused = store.put_small(&key, Bytes::from_static(b"x")).await;
    assert_eq!(kind(&refused), StoreErrorKind::Denied);
    assert!(!said(&refused).contains(SECRET) && !said(&refused).contains("session-"));
}

/// The tokens of an App Service, revoked over and over while a body goes out in parts.
#[tokio::test]
async fn tokens_of_azure_that_end_sooner_than_was_said_lose_no_write() {
    let server = Azurite::start();
    let life = Duration::from_secs(3);
    server.front.trouble().sessions = Some(Sessions::new(life, MINUTES));
    let endpoint = format!("{}/msi/token", server.front.endpoint());
    let variables = vec![("IDENTITY_ENDPOINT".to_owned(), endpoint)];
    let store = azure(&server, AzureCredentials::Ambient(variables));
    send_slowly(&store, "k", Duration::from_secs(8)).await;
    tokio::time::sleep(Duration::from_millis(3100)).await;
    assert_eq!(store.below(&Path::default(), None, 10).await.unwrap().len(), 1);
    {
        let trouble = server.front.trouble();
        let sessions = trouble.sessions.as_ref().unwrap();
        assert!(sessions.refused >= 2, "it came to that: {sessions:?}");
        assert!((3..20).contains(&sessions.given.len()), "not one for each request: {sessions:?}");
    }
    server.front.trouble().sessions.as_mut().unwrap().life = Duration::ZERO;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let refused = store.put_small(&Path::from("k"), Bytes::from_static(b"x")).await;
    assert_eq!(kind(&refused), StoreErrorKind::Denied);
    assert!(!said(&refused).contains("session-"), "{}", said(&refused));
}

#[tokio::test]
async fn a_service_that_gives_no_credentials_for_a_while_is_outlasted() {
    let server = S3Server::start();
    // So short that they are asked for with each request.
    let four = Duration::from_secs(240);
    let (store, front, _token) = with_sessions(&server, Sessions::new(MINUTES, four));
    let key = Path::from("k");
    store.put_small(&key, Bytes::from_static(b"1")).await.unwrap();
    front.trouble().sessions.as_mut().unwrap().away = true;
    for _ in 0..20 {
        store.put_small(&key, Bytes::from_static(b"2")).await.unwrap();
    }
    let asked = front.seen("GET credentials");
    assert!(asked < 12, "asked {asked} times: one of 21 puts asked in vain, with its tries");
    // Nobody has any from the beginning: it is said, and no secret with it.
    let (without, other, _other_token) = with_sessions(&server, Sessions::new(MINUTES, MINUTES));
    other.trouble().sessions.as_mut().unwrap().away = true;
    let failed = without.put_small(&key, Bytes::from_static(b"3")).await;
    assert_eq!(kind(&failed), StoreErrorKind::Away);
    assert!(!said(&failed).contains("who-asks"), "{}", said(&failed));
}

/// So many puts at once; each has succeeded, or failed so.
async fn put_at_once(store: &Store) -> Vec<Result<(), StoreErrorKind>> {
    let puts = (0..50).map(|number| async move {
        let put = store.put_small(&Path::from(format!("at-once/{number}")), Bytes::new()).await;
        put.as_ref().map(drop).map_err(|_| kind(&put))
    });
    let all = futures_util::future::join_all(puts);
    // One that asks gives up after 5 s; each of 50 that asks in its turn would take minutes.
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("they do not ask in turn")
}

#[tokio::test]
async fn puts_at_once_outlast_a_service_that_gives_no_credentials() {
    let server = S3Server::start();
    // So short that they are asked for with each request.
    let four = Duration::from_secs(240);
    let (store, front, _token) = with_sessions(&server, Sessions::new(MINUTES, four));
    store.put_small(&Path::from("k"), Bytes::new()).await.unwrap();
    front.trouble().sessions.as_mut().unwrap().away = true;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(put_at_once(&store).await, [Ok(()); 50]);
    let asked = front.seen("GET credentials");
    assert!((2..12).contains(&asked), "asked {asked} times");

    // With none from the beginning each is told, and none asks for itself.
    let (without, other, _other_token) = with_sessions(&server, Sessions::new(MINUTES, MINUTES));
    other.trouble().sessions.as_mut().unwrap().away = true;
    let told = put_at_once(&without).await;
    assert_eq!(told, [Err(StoreErrorKind::Away); 50]);
    let asked = other.seen("GET credentials");
    assert!(asked < 12, "asked {asked} times");
    // And as soon as there are some, they are used.
    other.trouble().sessions.as_mut().unwrap().away = false;
    assert_eq!(put_at_once(&without).await, [Ok(()); 50]);
}

/// The most memory that this process has had, in MiB.
fn most_memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

/// By hand, for its size: `cargo test -p tollgate-actors --lib five_gib -- --ignored --nocapture --test-threads 1`.
/// Needs 10 GiB of disk in `TMPDIR`.
#[tokio::test]
#[ignore = "5 GiB into a folder and 5 GiB into a bucket"]
async fn a_body_of_five_gib_goes_in_bounded_memory() {
    const PIECES: u64 = 5 * 1024;
    let most = SinkOptions { body_bytes_max: 6 << 30, ..plain(Codec::None) };
    for bucket in [false, true] {
        let (folder, server);
        let store = if bucket {
            server = S3Server::start();
            bucket_at(&server.direct())
        } else {
            folder = files();
            folder.0.clone()
        };
        let begun = tokio::time::Instant::now();
        let mut piece = report(MIB, 1);
        let mut sink = store.sink(Path::from("large"), most.clone());
        for number in 0..PIECES {
            piece[..8].copy_from_slice(&number.to_le_bytes());
            sink.write(Bytes::from(piece.clone())).await.unwrap();
        }
        let stored = sink.finish().await.unwrap();
        let took = begun.elapsed().as_secs_f64();
        println!(
            "bucket {bucket}: {took:.1} s, {:.0} MiB/s, at most {} MiB of memory",
            5120.0 / took,
            most_memory_mib()
        );
        assert_eq!(stored.stored_bytes, PIECES << 20);
        let size = store.size(&Path::from("large")).await.unwrap();
        assert_eq!(size, Some(PIECES << 20));
        assert!(most_memory_mib() < 256, "{} MiB", most_memory_mib());
        store.delete(&Path::from("large")).await.unwrap();
    }
}
