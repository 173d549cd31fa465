//! What the keeper does: secrets read again, questions that count, and bounds.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use tokio::sync::Notify;
use tollgate_gate::Span;

use super::config_mistakes::{EC, EC_PKCS8};
use super::*;
use crate::auth::renew::Desk;
use crate::auth::vault::MemoryVault;
use crate::http::scripted::{Reply, Scripted};
use crate::ids::Seq;
use crate::plan::InForce;

fn key(name: &str) -> AccountKey {
    AccountKey { platform: crate::ids::Slug::new("p").unwrap(), account: account(name) }
}

/// A keeper that works, before this server of tokens.
fn keeper(plan: Plan, script: impl Fn() -> Reply + 'static) -> (Keeper, Clock, Scripted) {
    let clock = Clock::starting_at("2026-11-20T12:00:00Z".parse().unwrap());
    let (keeper, worker) = Keeper::new(clock.clone());
    let wire = Scripted::new(clock.clone(), move |_| script());
    let plan = InForce::new(Arc::new(plan));
    actix_rt::spawn(worker.run(Rc::new(wire.clone()), Arc::new(MemoryVault::default()), plan));
    (keeper, clock, wire)
}

/// Waits until what signs is at hand; what was waited for last, if that is not so soon.
async fn ready(keeper: &Keeper, auth: &Auth, name: &str) -> Result<(), Wait> {
    let woken = Arc::new(Notify::new());
    for _ in 0..100 {
        let wake = Arc::clone(&woken);
        let wait = keeper.ready(auth, &key(name), || Box::new(move || wake.notify_one()));
        match wait {
            None => return Ok(()),
            Some(wait) if wait.until.is_some() => return Err(wait),
            Some(_) => woken.notified().await,
        }
    }
    panic!("it is never ready");
}

fn platform_auth(plan: &Plan) -> Auth {
    plan.platforms.values().next().unwrap().auth.clone().unwrap()
}

fn client(secret: &Path, more: &str) -> Plan {
    plan(&format!(
        "auth = {{ oauth2 = {{ grant = \"client_credentials\", client_id = \"c\", client_secret = \
         \"command:cat {}\", token_url = \"http://localhost:1/token\", {more} }} }}",
        secret.display()
    ))
}

#[test]
fn a_program_is_run_again_when_the_token_endpoint_refuses_what_it_printed() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "the-old").unwrap();
    let path = secret.path().to_owned();
    actix_rt::System::new().block_on(async {
        let asked = Rc::new(Cell::new(0));
        let counted = Rc::clone(&asked);
        let plan = client(&path, "limits = { a = { every = \"1ms\" } }");
        let auth = platform_auth(&plan);
        let (keeper, _, _) = keeper(plan, move || {
            counted.set(counted.get() + 1);
            if counted.get() == 1 {
                // Replaced while the question with the one of before is out.
                std::fs::write(&path, "the-new").unwrap();
                return Reply::status(401).then(Duration::ZERO, r#"{"error":"invalid_client"}"#);
            }
            Reply::ok(r#"{"access_token":"t-1","expires_in":3600}"#)
        });
        ready(&keeper, &auth, "x").await.unwrap();
        assert_eq!(asked.get(), 2);
    });
}

#[test]
fn a_program_is_run_again_while_what_it_printed_is_refused() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "the-old").unwrap();
    let path = secret.path().to_owned();
    actix_rt::System::new().block_on(async {
        let plan = client(&path, "limits = { a = { every = \"1ms\" } }");
        let auth = platform_auth(&plan);
        let good = Rc::new(Cell::new(false));
        let is_good = Rc::clone(&good);
        let (keeper, _, wire) = keeper(plan, move || {
            if is_good.get() {
                return Reply::ok(r#"{"access_token":"t-1","expires_in":3600}"#);
            }
            Reply::status(401).then(Duration::ZERO, r#"{"error":"invalid_client"}"#)
        });
        let wait = ready(&keeper, &auth, "x").await.unwrap_err();
        assert!(wait.why.contains("TG0501"), "{wait:?}");
        assert_eq!(wire.count(), 1, "the program printed the same again");
        crate::auth::reading::run_if_refused(&auth.pool[0]).await;
        assert!(ready(&keeper, &auth, "x").await.is_err(), "nothing changed, so nothing is asked");
        std::fs::write(&path, "the-new").unwrap();
        good.set(true);
        crate::auth::reading::run_if_refused(&auth.pool[0]).await;
        ready(&keeper, &auth, "x").await.unwrap();
        assert_eq!(wire.count(), 2);
        // Nothing is refused any more: it is left alone.
        std::fs::write(&path, "the-newest").unwrap();
        crate::auth::reading::run_if_refused(&auth.pool[0]).await;
        let now = auth.pool[0].references()[0].get(&account("x")).unwrap();
        assert_eq!(now.expose_secret(), "the-new");
    });
}

#[test]
fn the_key_of_a_statement_is_read_again_when_the_statement_is_refused() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), EC).unwrap();
    let path = secret.path().to_owned();
    let plan = plan(&format!(
        "auth = {{ jwt = {{ algorithm = \"ES256\", key = \"command:cat {}\", life = \"1m\" }} }}",
        path.display()
    ));
    actix_rt::System::new().block_on(async {
        let auth = platform_auth(&plan);
        let (keeper, clock, _) = keeper(plan, || Reply::status(500));
        ready(&keeper, &auth, "x").await.unwrap();
        let sign = || {
            let mut request = request("https://api.example.com/");
            auth.sign(&account("x"), &mut request, &clock).unwrap()
        };
        let used = sign();
        // Old enough to be dead.
        {
            let mut states = auth.pool[0].live.lock();
            let state = states.used(&None, State::default);
            let token = state.token.take().unwrap();
            state.token = Some(Arc::new(Token {
                value: Arc::clone(&token.value),
                generation: token.generation,
                had: clock.now().minus(Span::from_secs(40)),
                until: token.until,
                renew_at: token.renew_at,
            }));
        }
        std::fs::write(&path, EC_PKCS8).unwrap();
        assert!(keeper.refused(&used, &key("x"), Seq(1), 1));
        ready(&keeper, &auth, "x").await.unwrap();
        assert_eq!(auth.pool[0].secrets(&account("x")), Ok(()));
        let now = auth.pool[0].references()[0].get(&account("x")).unwrap();
        assert_eq!(now.expose_secret(), EC_PKCS8.trim_end_matches('\n'));
    });
}

#[test]
fn a_secret_that_is_read_again_for_one_account_holds_no_other() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["x", "y"] {
        std::fs::write(folder.path().join(name), format!("secret-of-{name}")).unwrap();
    }
    let plan =
        plan(&format!("auth = {{ bearer = \"file:{}/{{account}}\" }}", folder.path().display()));
    actix_rt::System::new().block_on(async {
        let auth = platform_auth(&plan);
        let (keeper, clock, _) = keeper(plan, || Reply::status(500));
        for name in ["x", "y"] {
            ready(&keeper, &auth, name).await.unwrap();
        }
        let used = auth.sign(&account("x"), &mut request("https://api.example.com/"), &clock);
        assert!(keeper.refused(&used.unwrap(), &key("x"), Seq(1), 1));
        // Nobody else had a turn since.
        let wake = || -> Wake { Box::new(|| ()) };
        assert!(keeper.ready(&auth, &key("x"), wake).is_some());
        assert_eq!(keeper.ready(&auth, &key("y"), wake), None);
        ready(&keeper, &auth, "x").await.unwrap();
    });
}

#[tokio::test]
async fn a_question_that_was_out_when_its_process_died_counts_as_asked_when_that_is_found() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "the-secret").unwrap();
    let plan = client(secret.path(), "limits = { a = { every = \"5s\" } }");
    let auth = platform_auth(&plan);
    let credential = &auth.pool[0];
    for reference in credential.references() {
        reference.secret(&account("x")).unwrap().run().await.unwrap();
    }
    let Kind::OAuth2(oauth2) = &credential.kind else { panic!() };
    let clock = Clock::starting_at("2026-11-20T12:00:00Z".parse().unwrap());
    let vault = Arc::new(MemoryVault::default());
    let desk = |reply: fn() -> Reply| {
        let wire = Scripted::new(clock.clone(), move |_| reply());
        (Desk::new(Rc::new(wire.clone()), vault.clone(), clock.clone()), wire)
    };
    tokio::time::pause();
    // It dies in the middle, ten seconds after it began: longer than the limit.
    let (dying, wire) = desk(Reply::silence);
    let whom = account("x");
    let asking = dying.token(credential, oauth2, &whom, None);
    assert!(tokio::time::timeout(Duration::from_secs(10), asking).await.is_err());
    assert_eq!(wire.count(), 1);
    let (next, wire) = desk(|| Reply::ok(r#"{"access_token":"t-1","expires_in":3600}"#));
    let failed = next.token(credential, oauth2, &whom, None).await.err().unwrap();
    assert_eq!(wire.count(), 0, "it may have come to the server just now");
    let wait = failed.after.unwrap();
    assert!((Duration::from_secs(5)..Duration::from_millis(5300)).contains(&wait), "{wait:?}");
    // It counts as that once, however often it is looked at.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(next.token(credential, oauth2, &whom, None).await.is_err());
    tokio::time::sleep(wait.saturating_sub(Duration::from_secs(4))).await;
    assert!(next.token(credential, oauth2, &whom, None).await.is_ok());
    assert_eq!(wire.count(), 1);
}

#[test]
fn accounts_beyond_the_bound_take_the_place_of_those_that_were_called_longest_ago() {
    let folder = tempfile::tempdir().unwrap();
    let reference = Reference::files_at_most(
        format!("{}/{{account}}", folder.path().display()),
        secret::Fit::Line,
        3,
    );
    for number in 0..10 {
        let name = format!("a{number}");
        std::fs::write(folder.path().join(&name), "s").unwrap();
        let secret = reference.secret(&account(&name)).unwrap();
        secret.read_file().unwrap();
        reference.secret(&account("a0")).unwrap();
    }
    assert_eq!(reference.all().len(), 3);
    assert!(reference.get(&account("a0")).is_ok() && reference.get(&account("a9")).is_ok());
    assert!(reference.get(&account("a3")).is_err_and(|missing| missing == Missing::Unread));
}

#[tokio::test]
async fn a_record_of_a_clock_that_was_ahead_holds_nothing_up_and_is_not_believed() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "the-secret").unwrap();
    let plan = client(secret.path(), "limits = { a = { every = \"5s\" } }");
    let auth = platform_auth(&plan);
    let credential = &auth.pool[0];
    for reference in credential.references() {
        reference.secret(&account("x")).unwrap().run().await.unwrap();
    }
    let Kind::OAuth2(oauth2) = &credential.kind else { panic!() };
    tokio::time::pause();
    let vault = Arc::new(MemoryVault::default());
    let desk = |wall: &str| {
        let clock = Clock::starting_at(wall.parse().unwrap());
        let good = || Reply::ok(r#"{"access_token":"t-1","expires_in":3600}"#);
        let wire = Scripted::new(clock.clone(), move |_| good());
        (Desk::new(Rc::new(wire.clone()), vault.clone(), clock), wire)
    };
    let whom = account("x");
    let (ahead, _) = desk("2026-11-20T15:00:00Z");
    assert!(ahead.token(credential, oauth2, &whom, None).await.is_ok());
    // A clock that differs a little takes what is there.
    let (near, wire) = desk("2026-11-20T14:59:58Z");
    assert!(near.token(credential, oauth2, &whom, None).await.is_ok());
    assert_eq!(wire.count(), 0);
    let (back, wire) = desk("2026-11-20T12:00:00Z");
    let failed = back.token(credential, oauth2, &whom, None).await.err().unwrap();
    let wait = failed.after.unwrap();
    // The limit, and how late a call without an answer may have come.
    assert!((Duration::from_secs(5)..Duration::from_secs(7)).contains(&wait), "{wait:?}");
    assert_eq!(wire.count(), 0, "when the token ends is not known");
    // It counts as that once, however often it is looked at.
    tokio::time::sleep(wait / 2).await;
    assert!(back.token(credential, oauth2, &whom, None).await.is_err());
    tokio::time::sleep(wait / 2 + Duration::from_millis(2)).await;
    let had = back.token(credential, oauth2, &whom, None).await.ok().unwrap();
    assert!(had.called && had.left <= Duration::from_secs(3600));
}

#[test]
fn an_account_whose_token_was_refused_makes_room_once_no_call_is_out_with_it() {
    let key_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key_file.path(), EC).unwrap();
    let plan = plan(&format!(
        "auth = {{ jwt = {{ algorithm = \"ES256\", key = \"command:cat {}\", life = \"1m\" }} }}",
        key_file.path().display()
    ));
    actix_rt::System::new().block_on(async {
        let auth = platform_auth(&plan);
        let (keeper, clock, _) = keeper(plan, || Reply::status(500));
        ready(&keeper, &auth, "x").await.unwrap();
        let mut out = request("https://api.example.com/");
        let used = auth.sign(&account("x"), &mut out, &clock).unwrap();
        let is_in_use = || {
            let states = auth.pool[0].live.lock();
            recent::Expendable::is_in_use(states.get(&None).unwrap())
        };
        // Old enough to be dead.
        {
            let mut states = auth.pool[0].live.lock();
            let state = states.used(&None, State::default);
            let mut token = Arc::try_unwrap(state.token.take().unwrap()).ok().unwrap();
            token.had = clock.now().minus(Span::from_secs(40));
            state.token = Some(Arc::new(token));
        }
        assert!(is_in_use(), "a call is out with it");
        assert!(keeper.refused(&used, &key("x"), Seq(1), 1));
        assert!(is_in_use(), "it is still");
        drop(used);
        assert!(!is_in_use());
    });
}

#[test]
fn each_of_many_refused_programs_has_its_turn() {
    let folder = tempfile::tempdir().unwrap();
    let path = |number| folder.path().join(format!("x{number}"));
    let table = (0..40).map(|number| {
        std::fs::write(path(number), "old").unwrap();
        format!("x{number} = \"command:cat {}\"", path(number).display())
    });
    let table = table.collect::<Vec<_>>().join(", ");
    let plan = plan(&format!(
        "auth = {{ oauth2 = {{ grant = \"client_credentials\", client_id = \"c\", client_secret = \
         {{ {table} }}, token_url = \"http://localhost:1/token\" }} }}"
    ));
    actix_rt::System::new().block_on(async {
        let auth = platform_auth(&plan);
        let credential = &auth.pool[0];
        let all = credential.references()[0].all();
        for secret in &all {
            secret.run().await.unwrap();
        }
        (0..40).for_each(|number| std::fs::write(path(number), "new").unwrap());
        for turn in 1..=3 {
            for number in 0..40 {
                let mut states = credential.live.lock();
                let part = credential.part(&account(&format!("x{number}")));
                states.used(&part, State::default).problem = Some(Problem {
                    code: crate::codes::Code::TokenRefused,
                    reason: "no".into(),
                    until: tollgate_gate::At(i64::MAX),
                    fails: 1,
                });
            }
            crate::auth::reading::run_if_refused(credential).await;
            let new = all.iter().filter(|secret| secret.get().unwrap().expose_secret() == "new");
            assert_eq!(new.count(), (16 * turn).min(40), "turn {turn}");
        }
    });
}
