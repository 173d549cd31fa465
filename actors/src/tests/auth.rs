//! Tokens before permits: one question for all who wait, no call without a token, no permit spent while none can be
//! had.

use std::cell::{Cell, RefCell};
use std::io::Write;

use super::*;

/// A platform whose tokens live so many seconds, with a limit of one call a second for each account.
fn oauth2(more: &str) -> (Setup, tempfile::NamedTempFile) {
    let mut secret = tempfile::NamedTempFile::new().unwrap();
    secret.write_all(b"the-s3cret").unwrap();
    let limits = limits(r#"gap = { per = ["account"], every = "1s" }"#);
    let auth = format!(
        "auth = {{ oauth2 = {{ grant = \"client_credentials\", client_id = \"c\", client_secret = \
         \"file:{}\", token_url = \"http://t.test/token\", {more} }} }}\n",
        secret.path().display()
    );
    (Setup { platform: auth + &limits.platform, ..limits }, secret)
}

/// A server of tokens and a provider that knows which are good.
#[derive(Default)]
struct Provider {
    given: Cell<u32>,
    /// Calls with a token that is not good.
    refused: Cell<u32>,
    /// Tokens whose number is lower are refused.
    good_from: Cell<u32>,
    bearers: RefCell<Vec<String>>,
}

impl Provider {
    fn token(&self, life_s: u64) -> Reply {
        self.given.set(self.given.get() + 1);
        let body =
            format!(r#"{{"access_token":"token-{}","expires_in":{life_s}}}"#, self.given.get());
        Reply::ok(Box::leak(body.into_boxed_str()))
    }

    fn call(&self, seen: &Seen) -> Reply {
        let bearer = seen.header("authorization").to_owned();
        self.bearers.borrow_mut().push(bearer.clone());
        let number = bearer.strip_prefix("Bearer token-").and_then(|n| n.parse::<u32>().ok());
        if number.is_some_and(|number| number >= self.good_from.get()) {
            return Reply::ok("{}");
        }
        self.refused.set(self.refused.get() + 1);
        Reply::status(401)
    }
}

fn is_token(seen: &Seen) -> bool {
    seen.url.host_str() == Some("t.test")
}

#[test]
fn fifty_accounts_wait_for_one_token_and_spend_no_permit_meanwhile() {
    paused(|| async {
        let provider = Rc::new(Provider::default());
        let own = Rc::clone(&provider);
        let (setup, _secret) = oauth2("");
        let rig = Rig::start(setup, move |seen| {
            if is_token(seen) { own.token(100).head_after(secs(3)) } else { own.call(seen) }
        });
        for number in 0..50 {
            rig.put_many(&format!("x{number}"), "a", 2).await;
        }
        rig.at(2900).await;
        assert_eq!(rig.wire.seen().len(), 1, "the question alone is out");
        let looks = rig.look().await;
        assert_eq!(looks.accounts[0].because.as_deref(), Some("the token of p"));
        rig.all_end(secs(30)).await;
        assert_eq!((provider.given.get(), provider.refused.get(), rig.done()), (1, 0, 100));
        let calls: Vec<u64> = rig
            .wire
            .seen()
            .iter()
            .filter(|seen| !is_token(seen))
            .map(|s| rig.ms(s.begun))
            .collect();
        assert_eq!(calls.iter().filter(|ms| (3000..3020).contains(*ms)).count(), 50, "{calls:?}");
        assert!(calls.iter().all(|ms| *ms < 4030), "no permit was wasted before: {calls:?}");
    });
}

#[test]
fn a_token_is_renewed_once_before_its_end_and_nobody_waits_for_it() {
    paused(|| async {
        let provider = Rc::new(Provider::default());
        let own = Rc::clone(&provider);
        let (setup, _secret) = oauth2("");
        let rig = Rig::start(setup, move |seen| {
            if is_token(seen) { own.token(60).head_after(secs(2)) } else { own.call(seen) }
        });
        for number in 0..20 {
            rig.put_many(&format!("x{number}"), "a", 200).await;
        }
        rig.all_end(secs(400)).await;
        let tokens: Vec<u64> =
            rig.wire.seen().iter().filter(|s| is_token(s)).map(|s| rig.ms(s.begun)).collect();
        // Each lives 60 s from 2 s after the question on, and is renewed 6 s before its end.
        assert_eq!(tokens.len(), 4, "{tokens:?}");
        for pair in tokens.windows(2) {
            assert!((55_900..57_100).contains(&(pair[1] - pair[0])), "{tokens:?}");
        }
        assert_eq!(provider.refused.get(), 0);
        let calls = rig.calls_of("x7");
        let gaps: Vec<u64> = calls.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert!(
            gaps.iter().all(|gap| (1000..1100).contains(gap)),
            "a call waited for a token: {gaps:?}"
        );
    });
}

#[test]
fn without_a_token_no_permit_is_spent_and_the_reason_is_told() {
    paused(|| async {
        let provider = Rc::new(Provider::default());
        let own = Rc::clone(&provider);
        let (setup, _secret) = oauth2("");
        let asked = Rc::new(Cell::new(0));
        let counted = Rc::clone(&asked);
        let rig = Rig::start(setup, move |seen| {
            if !is_token(seen) {
                return own.call(seen);
            }
            counted.set(counted.get() + 1);
            if counted.get() <= 4 { Reply::status(503) } else { own.token(3600) }
        });
        rig.put_many("x", "a", 3).await;
        rig.at(500).await;
        let because = rig.look().await.accounts[0].because.clone().unwrap();
        assert!(because.contains("answered 503") && because.contains("TG0502"), "{because}");
        rig.all_end(secs(60)).await;
        let seen = rig.wire.seen();
        let tokens: Vec<u64> =
            seen.iter().filter(|s| is_token(s)).map(|s| rig.ms(s.begun)).collect();
        assert_eq!(tokens.len(), 5);
        let waits: Vec<u64> = tokens.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (wait, base) in waits.iter().zip([1000, 2000, 4000, 8000]) {
            assert!((base..base * 5 / 4 + 100).contains(wait), "{waits:?}");
        }
        let dropped = rig.shared.ledger.load(super::key("x")).await.unwrap();
        assert!(dropped.is_some());
        assert_eq!((provider.refused.get(), rig.done()), (0, 3));
    });
}

#[test]
fn a_credential_that_is_refused_is_not_asked_for_again_and_again() {
    paused(|| async {
        let (setup, secret) = oauth2("");
        let good = Rc::new(Cell::new(false));
        let provider = Rc::new(Provider::default());
        let (own, now) = (Rc::clone(&provider), Rc::clone(&good));
        let rig = Rig::start(setup, move |seen| match (is_token(seen), now.get()) {
            (true, false) => Reply::status(400).then(
                Duration::ZERO,
                r#"{"error":"invalid_client","error_description":"the-s3cret is wrong"}"#,
            ),
            (true, true) => own.token(3600),
            (false, _) => own.call(seen),
        });
        rig.put_many("x", "a", 3).await;
        rig.at(600_000).await;
        assert_eq!(rig.wire.seen().len(), 1, "one question in ten minutes, and no call");
        let because = rig.look().await.accounts[0].because.clone().unwrap();
        assert!(because.contains("invalid_client: [redacted] is wrong"), "{because}");
        assert!(because.contains("TG0501"), "{because}");
        // A changed secret is tried at once.
        good.set(true);
        std::fs::write(secret.path(), "the-new-s3cret").unwrap();
        rig.at(610_000).await;
        assert_eq!(rig.done(), 3);
    });
}

#[test]
fn a_token_that_died_early_is_renewed_once_for_all_calls_that_were_out_with_it() {
    paused(|| async {
        let provider = Rc::new(Provider::default());
        let own = Rc::clone(&provider);
        let (setup, _secret) = oauth2("");
        let rig = Rig::start(setup.attempts_max(1), move |seen| {
            if is_token(seen) { own.token(3600) } else { own.call(seen).head_after(ms(300)) }
        });
        for number in 0..20 {
            rig.put_many(&format!("x{number}"), "a", 60).await;
        }
        rig.at(40_500).await;
        provider.good_from.set(2);
        rig.all_end(secs(300)).await;
        assert_eq!(provider.given.get(), 2, "one question for all");
        assert_eq!(provider.refused.get(), 20, "each account was out with it once");
        assert_eq!((rig.done(), rig.dead().await.len()), (1200, 0));
    });
}

#[test]
fn an_account_that_is_refused_with_a_good_token_is_given_up_after_one_more_try() {
    paused(|| async {
        let provider = Rc::new(Provider::default());
        let own = Rc::clone(&provider);
        let (setup, _secret) = oauth2("");
        let rig = Rig::start(setup, move |seen| {
            if is_token(seen) {
                own.token(3600)
            } else if account_of(seen) == "revoked" {
                Reply::status(401)
            } else {
                own.call(seen)
            }
        });
        rig.put_many("good", "a", 120).await;
        rig.at(60_000).await;
        rig.put_many("revoked", "a", 10).await;
        rig.all_end(secs(300)).await;
        let dead = rig.dead().await;
        assert_eq!(dead.len(), 10);
        assert!(dead.iter().all(|(_, code)| code == "TG0201"), "{dead:?}");
        // The token is old enough to be dead the first time, and too young then.
        assert_eq!(provider.given.get(), 2, "a revoked account does not storm the token endpoint");
        assert!(rig.calls_of("revoked").len() <= 12, "{:?}", rig.calls_of("revoked"));
    });
}

#[test]
fn a_secret_that_is_refused_is_read_again_before_the_next_try() {
    paused(|| async {
        let mut secret = tempfile::NamedTempFile::new().unwrap();
        secret.write_all(b"old").unwrap();
        let limits = limits(r#"gap = { per = ["account"], every = "100ms" }"#);
        let auth = format!("auth = {{ bearer = \"file:{}\" }}\n", secret.path().display());
        let setup = Setup { platform: auth + &limits.platform, ..limits }.attempts_max(1);
        let good = Rc::new(Cell::new("Bearer old"));
        let wanted = Rc::clone(&good);
        let rig = Rig::start(setup, move |seen| {
            let is_good = seen.header("authorization") == wanted.get();
            if is_good { Reply::ok("{}") } else { Reply::status(401) }
        });
        for number in 0..10 {
            rig.put_many(&format!("x{number}"), "a", 30).await;
        }
        rig.at(1050).await;
        // Both at once, and nobody has looked at the file since.
        good.set("Bearer new");
        std::fs::write(secret.path(), "new").unwrap();
        rig.all_end(secs(30)).await;
        assert_eq!((rig.done(), rig.dead().await), (300, Vec::new()));
        assert!(
            rig.wire.seen().len() <= 310,
            "each account was refused once: {}",
            rig.wire.seen().len()
        );
    });
}

#[test]
fn an_endpoint_that_does_not_answer_delays_no_other_credential() {
    paused(|| async {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x0"), "s").unwrap();
        let own = |host: &str, secret: &str| {
            format!(
                "auth = {{ oauth2 = {{ grant = \"client_credentials\", client_id = \"c\", \
                 client_secret = {secret}, token_url = \"http://{host}/token\" }} }}\n"
            )
        };
        let one = format!("\"file:{}\"", folder.path().join("x0").display());
        let each = |number| format!("x{number} = {one}");
        let all = format!("{{ {} }}", (0..200).map(each).collect::<Vec<_>>().join(", "));
        let setup = limits(r#"gap = { per = ["account"], every = "1s" }"#);
        let platform = setup.platform.replace(
            "[platforms.p.apis.b]\n",
            &format!("{}[platforms.p.apis.b]\n{}", own("slow.test", &all), own("t.test", &one)),
        );
        let rig = Rig::start(Setup { platform, ..setup }, |seen| match seen.url.host_str() {
            Some("slow.test") => Reply::ok("{}").head_after(secs(29)),
            Some("t.test") => Reply::ok(r#"{"access_token":"t-1","expires_in":3600}"#),
            _ => Reply::ok("{}"),
        });
        // At hand: reading takes real time.
        let plan = rig.shared.plan.get();
        let apis = plan.platforms.values().flat_map(|platform| &platform.apis);
        for credential in apis.filter_map(|api| api.auth.as_ref()).flat_map(|auth| &auth.pool) {
            for secret in credential.references().iter().flat_map(|reference| reference.all()) {
                secret.read_file().unwrap();
            }
        }
        for number in 0..200 {
            rig.put_many(&format!("x{number}"), "a", 1).await;
        }
        rig.at(1000).await;
        let slow = rig.wire.seen().len();
        assert!((8..=64).contains(&slow), "many at once, and not all: {slow}");
        rig.put_many("y", "b", 1).await;
        rig.at(2000).await;
        assert_eq!(rig.done(), 1, "its own endpoint answers at once");
    });
}

#[test]
fn a_dead_token_may_be_told_by_a_rule() {
    paused(|| async {
        let provider = Rc::new(Provider::default());
        let own = Rc::clone(&provider);
        let (mut setup, _secret) = oauth2("");
        setup.platform = format!(
            "answers = [{{ status = 400, body = \"error.code\", is = 190, class = \"unauthorized\" }}]\n{}",
            setup.platform
        );
        let rig = Rig::start(setup.attempts_max(1), move |seen| {
            if is_token(seen) {
                return own.token(3600);
            }
            own.call(seen);
            let bearer = seen.header("authorization");
            let is_old = bearer == "Bearer token-1" && own.good_from.get() > 1;
            if is_old || account_of(seen) == "revoked" {
                let reply = Reply::status(400).then(Duration::ZERO, r#"{"error":{"code":190}}"#);
                return reply.head_after(ms(300));
            }
            Reply::ok("{}").head_after(ms(300))
        });
        for number in 0..10 {
            rig.put_many(&format!("x{number}"), "a", 60).await;
        }
        rig.at(40_500).await;
        provider.good_from.set(2);
        rig.at(41_700).await;
        rig.put_many("revoked", "a", 1).await;
        rig.all_end(secs(300)).await;
        assert_eq!(provider.given.get(), 2, "one question for all");
        assert_eq!(provider.refused.get(), 10, "each account was out with it once");
        let dead = rig.dead().await;
        assert_eq!((rig.done(), dead.len()), (600, 1));
        assert_eq!(dead[0].1, "TG0240", "{dead:?}");
    });
}

#[test]
fn what_a_provider_says_of_its_pages_is_shown_without_secrets() {
    paused(|| async {
        let mut secret = tempfile::NamedTempFile::new().unwrap();
        // Longer than what is shown of a value.
        let text = "s3cret-0123456789-0123456789-0123456789";
        secret.write_all(text.as_bytes()).unwrap();
        let platform = format!(
            "auth = {{ bearer = \"file:{}\" }}\n[platforms.p.limits]\ngap = {{ per = [\"account\"], every = \"1s\" }}\n\
             [platforms.p.apis.a]\npath = \"a/{{id}}\"\nquery = {{ p = \"{{page.number}}\" }}\n\
             pages = {{ by = \"page\", items = \"d\", stop = \"empty\", total = \"total\" }}\n",
            secret.path().display()
        );
        let setup = Setup { platform, ..limits("") }.attempts_max(1);
        let body = r#"{"d":[],"total":"s3cret-0123456789-0123456789-0123456789"}"#;
        let rig = Rig::start(setup, move |_| Reply::ok(body));
        rig.put_many("x", "a", 1).await;
        rig.all_end(secs(600)).await;
        let letters = rig.queue.dead(None, 10).await.unwrap();
        assert_eq!(letters.len(), 1);
        let letter = format!("{letters:?}");
        assert!(letter.contains("[redacted]") && !letter.contains("s3cret-012"), "{letter}");
    });
}

/// A platform with this secret in a file, and the objects of its fetches.
fn signed(auth: &str, file: &std::path::Path, apis: &str) -> Setup {
    let platform = format!(
        "auth = {{ {} }}\n[platforms.p.limits]\ngap = {{ per = [\"account\"], every = \"100ms\" }}\n{apis}",
        auth.replace("FILE", &format!("file:{}", file.display()))
    );
    Setup { platform, ..limits("") }
}

#[test]
fn a_secret_that_is_another_one_when_the_answer_comes_is_not_shown() {
    for auth in [
        "bearer = \"FILE\"",
        "header = \"X-Key\", value = \"FILE\"",
        "query = \"key\", value = \"FILE\"",
        "basic = { user = \"joe1\", password = \"FILE\" }",
        "oauth1 = { consumer_key = \"FILE\", consumer_secret = \"FILE\" }",
    ] {
        paused(move || async move {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), "the-0ld-key").unwrap();
            let api = "[platforms.p.apis.a]\npath = \"a/{id}\"\n";
            let setup = signed(auth, file.path(), api).attempts_max(1);
            let path = file.path().to_owned();
            let secrets = Rc::new(RefCell::new(Vec::<crate::auth::Secret>::new()));
            let known = Rc::clone(&secrets);
            let rig = Rig::start(setup, move |_| {
                // Rotated while the call is out.
                std::fs::write(&path, "the-new-k3y-0").unwrap();
                for secret in &*known.borrow() {
                    secret.read_file().unwrap();
                }
                let body = r#"{"why":"the-0ld-key and am9lMTp0aGUtMGxkLWtleQ== are revoked"}"#;
                Reply::status(400).then(Duration::ZERO, body)
            });
            let plan = rig.shared.plan.get();
            let platform = plan.platforms.values().next().unwrap();
            let pool = &platform.auth.as_ref().unwrap().pool;
            let all = pool[0].references().into_iter().flat_map(crate::auth::Reference::all);
            *secrets.borrow_mut() = all.collect();
            rig.put_many("x", "a", 1).await;
            rig.all_end(secs(60)).await;
            let letters = format!("{:?}", rig.queue.dead(None, 10).await.unwrap());
            assert!(letters.contains("[redacted]"), "{auth}: {letters}");
            assert!(!letters.contains("the-0ld"), "{auth}: {letters}");
            let is_pair = auth.starts_with("basic");
            assert_eq!(!letters.contains("am9lMTp0aGUtMGxkLWtleQ=="), is_pair, "{auth}: {letters}");
        });
    }
}

#[test]
fn an_id_that_a_provider_gives_to_a_call_is_kept_without_secrets() {
    paused(|| async {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s3cret-0123456789").unwrap();
        let api = "request_id = \"rid\"\npath = \"{id}\"\n";
        let apis = format!(
            "[platforms.p.apis.a]\n{api}[platforms.p.apis.b]\n{api}query = {{ p = \"{{page.number}}\" }}\n\
             pages = {{ by = \"page\", stop = {{ more = \"more\" }} }}\n"
        );
        let rig = Rig::start(signed("bearer = \"FILE\"", file.path(), &apis), |seen| {
            Reply::ok(match seen.url.query() {
                Some("p=1") => r#"{"rid":"r-s3cret-0123456789","more":true}"#,
                _ => r#"{"rid":"r-s3cret-0123456789","more":false}"#,
            })
        });
        rig.put("x", "a", "one").await;
        rig.put("x", "b", "two").await;
        rig.all_end(secs(60)).await;
        assert_eq!(rig.done(), 2);
        for ending in rig.watched_queue.endings() {
            let crate::queue::Ending::Done { done, .. } = ending else { panic!("{ending:?}") };
            assert_eq!(done.request_id.as_deref(), Some("r-[redacted]"), "{}", done.id);
        }
        let mut manifests = 0;
        for key in rig.shared.store.keys(100).await.unwrap() {
            if key.as_ref().ends_with("_manifest.json") {
                manifests += 1;
                let text = rig.shared.store.get(&key).await.unwrap().unwrap();
                let text = String::from_utf8_lossy(&text);
                assert!(text.contains("r-[redacted]") && !text.contains("s3cret"), "{text}");
            }
        }
        assert_eq!(manifests, 2);
    });
}

#[test]
fn of_a_next_url_only_what_is_a_secret_is_left_out_and_a_loop_of_signed_ones_is_found() {
    paused(|| async {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s3cret-0123456789").unwrap();
        let apis = "[platforms.p.apis.a]\npath = \"a/{id}\"\npages = { by = \"url\", next = \"next\", end = \"null\", max = 50 }\n";
        let count = Cell::new(0);
        let rig = Rig::start(signed("bearer = \"FILE\"", file.path(), apis), move |_| {
            count.set(count.get() + 1);
            // The same page again and again, but for a number.
            let body = format!(
                "{{\"n\":{},\"next\":\"?after=x-s3cret-0123456789&q=caf%E2%80%A6&access_token=s3cret-0123456789\"}}",
                count.get()
            );
            Reply::ok(Box::leak(body.into_boxed_str()))
        });
        rig.put("x", "a", "one").await;
        rig.all_end(secs(60)).await;
        let dead = rig.dead().await;
        assert_eq!((dead.len(), dead[0].1.as_str()), (1, "TG0231"), "{dead:?}");
        let queries: Vec<_> =
            rig.wire.seen().iter().map(|seen| seen.url.query().map(str::to_owned)).collect();
        let next = Some("after=x-s3cret-0123456789&q=caf%E2%80%A6".to_owned());
        assert_eq!(queries, [None, next], "what only holds a secret says which page it is");
    });
}
