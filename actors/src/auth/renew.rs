//! Getting a token: from the vault, if another has put one there, else from its server; never two at a time with
//! one credential, in this process or in others that share the vault.
//!
//! Before the server is asked the record says that it is being asked, and by whom. Its answer is in the record
//! before the token is used. So a process that dies in between leaves a record that tells: asked, and nothing came.
//! Whoever takes over asks with the same refresh token again, for there is no other; if the server has replaced it
//! and says no, that is told as what it is.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};
use tollgate_gate::{Ask, Decision, Ledger, LimitSet, PermitId, Sent, Span, decide};

use super::endpoint::{self, Client, Denied};
use super::redact::Redactor;
use super::sign::hex;
use super::vault::{Kept, RECORD_BYTES_MAX, Vault, VaultError};
use super::{Credential, Grant, OAuth2};
use crate::clock::Clock;
use crate::codes::Code;
use crate::http::Transport;
use crate::ids::Account;

/// The form of records written now.
const FORM: u32 = 1;
/// Somebody else who asks the server is waited for so long: more than a question may take, and its answer's way
/// into the vault.
const OTHERS_WITHIN: Duration = Duration::from_secs(90);
/// Between two looks at whether it came.
const LOOK_AGAIN: Duration = Duration::from_millis(300);
/// A token is stored as often as it takes, with these pauses.
const STORE_AGAIN: Duration = Duration::from_millis(250);
const STORE_AGAIN_MAX: Duration = Duration::from_secs(10);
/// Others may be faster with a record so often.
const TURNS_MAX: u32 = 100;
/// Most calls to a server that a record remembers.
const CALLS_MAX: usize = 256;
/// A token of a record has to have so much time before its renewal: stored times are cut to milliseconds.
const LEFT_MIN: Duration = Duration::from_millis(20);
/// A record may be so much ahead of this process: clocks of nodes differ. One that is further ahead was written by a
/// clock that was wrong, and has been set back since.
const AHEAD_MAX_MS: i64 = 5_000;

/// What is kept of a credential.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Record {
    form: u32,
    /// The refresh token of the configuration that this began with, hashed: another one begins anew.
    seed: String,
    /// Whom and what for, hashed: a token of another client or scope is not used.
    shape: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    access: Option<String>,
    /// Wall time, in milliseconds since 1970: when the access token came, and when it ends.
    had_ms: i64,
    until_ms: i64,
    /// Who asks the server now.
    #[serde(skip_serializing_if = "Option::is_none")]
    asking: Option<Asking>,
    /// When the server has counted that it was asked, at the latest, as far as its limits go back.
    calls_ms: Vec<i64>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Asking {
    by: String,
    since_ms: i64,
}

/// A token that was had.
pub(super) struct Had {
    pub(super) access: SecretString,
    pub(super) refresh: Option<SecretString>,
    /// How long ago it came, and how long it lives from now on.
    pub(super) age: Duration,
    pub(super) left: Duration,
    /// Whether the server was asked for it, by this process.
    pub(super) called: bool,
}

/// Why there is none.
pub(super) struct Failed {
    pub(super) code: Code,
    pub(super) reason: String,
    /// Nothing is tried before this has passed; none: as the number of failures says.
    pub(super) after: Option<Duration>,
    /// It is not worth trying again soon.
    pub(super) lasting: bool,
}

impl Failed {
    fn later(code: Code, reason: String) -> Self {
        Self { code, reason, after: None, lasting: false }
    }

    fn kept(error: &VaultError) -> Self {
        Self::later(Code::TokenNotKept, format!("its record of tokens: {error}"))
    }
}

/// What getting tokens needs.
pub(super) struct Desk {
    pub(super) transport: Rc<dyn Transport>,
    pub(super) vault: Arc<dyn Vault>,
    pub(super) clock: Clock,
    /// Names this process in records.
    pub(super) by: String,
    /// One at a time for each record.
    turns: std::cell::RefCell<HashMap<String, Rc<tokio::sync::Mutex<()>>>>,
}

impl Desk {
    pub(super) fn new(transport: Rc<dyn Transport>, vault: Arc<dyn Vault>, clock: Clock) -> Self {
        let by = vault.me();
        Self { transport, vault, clock, by, turns: std::cell::RefCell::default() }
    }

    fn now_ms(&self) -> i64 {
        self.clock.wall().as_millisecond()
    }

    /// A token of this credential. `dead`: one that the provider refused, which will not do.
    pub(super) async fn token(
        &self,
        credential: &Credential,
        oauth2: &OAuth2,
        account: &Account,
        dead: Option<&SecretString>,
    ) -> Result<Had, Failed> {
        let client = read_client(oauth2, account)?;
        let (seed, shape) = (seed(&client), shape(oauth2, &client));
        let key = record_key(credential, account, oauth2, &client, &seed);
        let turn = {
            let mut turns = self.turns.borrow_mut();
            // Nobody has those that only the table holds.
            turns.retain(|_, turn| Rc::strong_count(turn) > 1);
            Rc::clone(turns.entry(key.clone()).or_default())
        };
        let _mine = turn.lock().await;
        // Another that asks, and since when it is known that it does.
        let mut other: Option<(Asking, Instant)> = None;
        let mut turns = 0;
        while turns < TURNS_MAX {
            let kept = self.vault.load(&key).await.map_err(|error| Failed::kept(&error))?;
            let version = kept.as_ref().map_or(0, |kept| kept.version);
            let record = read(kept.as_ref())?;
            let known = record.filter(|record| record.seed == seed);
            let mut record = known.unwrap_or_else(|| Record {
                form: FORM,
                seed: seed.clone(),
                ..Record::default()
            });
            if let Some(had) = self.usable(&record, &shape, oauth2, dead) {
                return Ok(had);
            }
            if let Some(asking) = &record.asking
                && !asking.by.is_empty()
                && asking.by != self.by
                && !self.vault.is_gone(&asking.by).await
            {
                let since = match &other {
                    Some((known, since)) if known == asking => *since,
                    _ => {
                        let now = Instant::now();
                        other = Some((asking.clone(), now));
                        now
                    }
                };
                if since.elapsed() < OTHERS_WITHIN {
                    sleep(LOOK_AGAIN).await;
                    continue;
                }
            }
            let mut mended = not_ahead(&oauth2.limits, &mut record.calls_ms, self.now_ms());
            if let Some(asking) = record.asking.as_mut().filter(|asking| !asking.by.is_empty()) {
                // Who asked is gone, and how late its question came to the server is not known: it counts as now.
                asking.by.clear();
                charge(&oauth2.limits, &mut record.calls_ms, self.now_ms(), true);
                mended = true;
            }
            if mended {
                // Kept before anything else: what counts as now does so once.
                match self.vault.store(&key, version, written(&record)).await {
                    Ok(_) | Err(VaultError::Conflict) => {
                        turns += 1;
                        continue;
                    }
                    Err(error) => return Err(Failed::kept(&error)),
                }
            }
            let unanswered = record.asking.take().map(|asking| asking.since_ms);
            self.within_limits(&oauth2.limits, &record.calls_ms)?;
            let since_ms = self.now_ms();
            record.asking = Some(Asking { by: self.by.clone(), since_ms });
            record.shape.clone_from(&shape);
            record.access = None;
            record.calls_ms.push(since_ms);
            forget(&oauth2.limits, &mut record.calls_ms, since_ms);
            let version = match self.vault.store(&key, version, written(&record)).await {
                Ok(version) => version,
                Err(VaultError::Conflict) => {
                    turns += 1;
                    sleep(Duration::from_millis(fastrand::u64(5..=50))).await;
                    continue;
                }
                Err(error) => return Err(Failed::kept(&error)),
            };
            return self
                .call(credential, oauth2, account, client, (key, version, record), unanswered)
                .await;
        }
        Err(Failed::later(
            Code::TokenUnavailable,
            "others replace its record of tokens again and again".into(),
        ))
    }

    /// Asks the server, with a record that says so, and keeps what it gives.
    async fn call(
        &self,
        credential: &Credential,
        oauth2: &OAuth2,
        account: &Account,
        mut client: Client,
        (key, version, mut record): (String, u64, Record),
        unanswered: Option<i64>,
    ) -> Result<Had, Failed> {
        if let Some(refresh) = &record.refresh {
            client.refresh = Some(refresh.clone().into());
        }
        if let Some((jwt, name)) = &oauth2.assertion {
            let pem = jwt.key.get(account).map_err(unread)?;
            let text = jwt.sign(pem.expose_secret(), account, self.clock.wall());
            let text = text.map_err(|reason| Failed {
                code: Code::SecretUnavailable,
                reason: format!("its key does not sign: {reason}"),
                after: None,
                lasting: true,
            })?;
            client.assertion = Some((text, *name));
        }
        let redactor = sent(&client);
        let answer = endpoint::ask(&*self.transport, &self.clock, oauth2, &client, &redactor).await;
        let ended_ms = self.now_ms();
        let is_lost = matches!(answer, Err(Denied::Later { lost: true, .. }));
        let is_silent = matches!(answer, Err(Denied::Later { lost: true, answered: false, .. }));
        charge(&oauth2.limits, &mut record.calls_ms, ended_ms, is_silent);
        let given = match answer {
            Ok(given) => given,
            Err(denied) => {
                // After no answer the record goes on saying that one was asked for.
                // Nobody asks any more, so others need not wait; but what was asked for, now or before, may have
                // been given.
                let since_ms = if is_lost { Some(ended_ms) } else { unanswered };
                record.asking = since_ms.map(|since_ms| Asking { by: String::new(), since_ms });
                // If it cannot be stored the record says what it said: somebody asks.
                let _kept = self.vault.store(&key, version, written(&record)).await.is_ok();
                return Err(failed(credential, oauth2, denied, unanswered));
            }
        };
        let life = given.life;
        let asked_with = record.refresh.clone();
        record.asking = None;
        record.access = Some(given.access.expose_secret().to_owned());
        (record.had_ms, record.until_ms) =
            (ended_ms, ended_ms.saturating_add(i64::try_from(life.as_millis()).unwrap_or(0)));
        if let Some(refresh) = &given.refresh {
            record.refresh = Some(refresh.expose_secret().to_owned());
        }
        self.keep(&key, version, &record, asked_with).await?;
        let refresh = record.refresh.map(SecretString::from).or(client.refresh);
        let since = self.now_ms().saturating_sub(ended_ms).max(0);
        let age = Duration::from_millis(since.unsigned_abs());
        Ok(Had { access: given.access, refresh, age, left: life.saturating_sub(age), called: true })
    }

    /// Stores what a server gave, as often as it takes: it gives it once. Until then it is not used.
    /// `asked_with`: the refresh token that it was asked with, as the record had it.
    async fn keep(
        &self,
        key: &str,
        mut version: u64,
        record: &Record,
        asked_with: Option<String>,
    ) -> Result<(), Failed> {
        let bytes = written(record);
        if bytes.len() > RECORD_BYTES_MAX {
            let reason = format!("its tokens have more than {RECORD_BYTES_MAX} bytes");
            return Err(Failed { code: Code::TokenNotKept, reason, after: None, lasting: true });
        }
        let mut pause = STORE_AGAIN;
        let mut told = false;
        loop {
            let error = match self.vault.store(key, version, bytes.clone()).await {
                Ok(_) => return Ok(()),
                Err(VaultError::Conflict) => {
                    // Ours came through without a word, or somebody took over who waited too long.
                    let now = self.vault.load(key).await;
                    match now {
                        Ok(Some(kept)) if kept.record == bytes => return Ok(()),
                        // Who took over has no token yet, and asks with what is spent: only ours is good.
                        Ok(Some(kept))
                            if read(Some(&kept)).ok().flatten().is_some_and(|now| {
                                now.access.is_none()
                                    && now.seed == record.seed
                                    && now.refresh == asked_with
                            }) =>
                        {
                            version = kept.version;
                            continue;
                        }
                        Ok(_) => {
                            let reason = "somebody else renewed it meanwhile".into();
                            return Err(Failed::later(Code::TokenNotKept, reason));
                        }
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            if !told {
                told = true;
                crate::telemetry::token_not_kept(key, &error.to_string());
            }
            sleep(pause).await;
            pause = (pause * 2).min(STORE_AGAIN_MAX);
        }
    }

    /// What a record brings that another has put there, or this process in an earlier life.
    fn usable(
        &self,
        record: &Record,
        shape: &str,
        oauth2: &OAuth2,
        dead: Option<&SecretString>,
    ) -> Option<Had> {
        let access = record.access.as_ref().filter(|_| record.shape == shape)?;
        if dead.is_some_and(|dead| dead.expose_secret() == access) {
            return None;
        }
        let now = self.now_ms();
        if record.had_ms > now.saturating_add(AHEAD_MAX_MS) {
            // By a clock that was ahead: when it ends nobody knows.
            return None;
        }
        let left = Duration::from_millis(u64::try_from(record.until_ms.saturating_sub(now)).ok()?);
        let age =
            Duration::from_millis(u64::try_from(now.saturating_sub(record.had_ms)).unwrap_or(0));
        // One that would be renewed at once is not worth taking.
        let early = super::keeper::early(oauth2.early, left + age);
        (left > early + LEFT_MIN).then(|| Had {
            access: access.clone().into(),
            refresh: record.refresh.clone().map(Into::into),
            age,
            left,
            called: false,
        })
    }

    /// Whether the server may be asked now: by the gate, over the calls that the record knows of.
    fn within_limits(&self, limits: &LimitSet, calls_ms: &[i64]) -> Result<(), Failed> {
        let mut ledger = Ledger::new();
        for (number, ms) in calls_ms.iter().enumerate() {
            let Ok(wall) = jiff::Timestamp::from_millisecond(*ms) else { continue };
            let (id, at) = (PermitId(number as u64), self.clock.at_wall(wall));
            ledger.adopt(id, Ask::new(0), false);
            ledger.answered(limits, id, at);
            ledger.ended(limits, id, at, Sent::Maybe);
        }
        let now = self.clock.now();
        match decide(limits, &ledger, ledger.holds(), Ask::new(0), now) {
            Decision::Go => Ok(()),
            Decision::WaitUntil { at, because } => {
                let name = because.text(limits, ledger.holds());
                let reason = format!("the limit `{name}` of its token endpoint");
                let after = at.map_or(Duration::from_secs(1), |at| Duration::from(at.since(now)));
                // Stored times are cut to milliseconds.
                let after = Some(after + Duration::from_millis(1));
                Err(Failed { code: Code::TokenUnavailable, reason, after, lasting: false })
            }
            Decision::Never { .. } => Err(Failed {
                code: Code::TokenUnavailable,
                reason: "its limits allow no call to its token endpoint".into(),
                after: None,
                lasting: true,
            }),
        }
    }
}

/// What a server wants to be asked with, as far as it is secret.
fn read_client(oauth2: &OAuth2, account: &Account) -> Result<Client, Failed> {
    let secret = |reference: &super::Reference| {
        let text = reference.get(account).map_err(unread)?;
        Ok::<_, Failed>(SecretString::from(text.expose_secret().to_owned()))
    };
    let id = oauth2.client_id.as_ref().map(|id| id.get(account)).transpose();
    Ok(Client {
        id: id.map_err(unread)?,
        secret: oauth2.client_secret.as_ref().map(secret).transpose()?,
        refresh: oauth2.refresh_token.as_ref().map(secret).transpose()?,
        assertion: None,
    })
}

/// What a no means for the credential.
fn failed(
    credential: &Credential,
    oauth2: &OAuth2,
    denied: Denied,
    unanswered: Option<i64>,
) -> Failed {
    match denied {
        Denied::Later { reason, after, .. } => {
            Failed { code: Code::TokenUnavailable, reason, after, lasting: false }
        }
        Denied::Refused(reason) => {
            let lost = match (oauth2.grant, unanswered) {
                (Grant::RefreshToken, Some(since)) => {
                    let since = jiff::Timestamp::from_millisecond(since);
                    let since = since.map_or_else(|_| "?".into(), |since| since.to_string());
                    format!(
                        "; the answer to a renewal that began at {since} never came: the refresh \
                         token that was in it is lost if the server replaced the one of before"
                    )
                }
                _ => String::new(),
            };
            let what = match oauth2.grant {
                Grant::RefreshToken => "put a new refresh token where",
                Grant::ClientCredentials | Grant::JwtBearer => "see whether",
            };
            let reason = format!(
                "{reason}{lost}; {what} {} is declared{}",
                credential.shown,
                if oauth2.grant == Grant::RefreshToken { "" } else { " as its server knows it" }
            );
            Failed { code: Code::TokenRefused, reason, after: None, lasting: true }
        }
    }
}

/// Under which a credential's record is, or that of one of its accounts. A refresh token has one record, however
/// many credentials are declared with it: each replaces it for all.
fn record_key(
    credential: &Credential,
    account: &Account,
    oauth2: &OAuth2,
    client: &Client,
    seed: &str,
) -> String {
    let short = |text: &str| hex(Sha256::digest(text.as_bytes()).get(..16).unwrap_or_default());
    if oauth2.grant == Grant::RefreshToken {
        let id = client.id.as_deref().unwrap_or_default();
        return format!("refresh.{}", short(&format!("{} {id} {seed}", oauth2.token_url)));
    }
    match credential.part(account) {
        None => credential.key.clone(),
        Some(account) => format!("{}.{}", credential.key, short(account.as_str())),
    }
}

fn unread(_: super::secret::Missing) -> Failed {
    Failed::later(Code::SecretUnavailable, "a secret of it was not read yet".into())
}

/// The configured refresh token, hashed. Of other grants everything is in the shape.
fn seed(client: &Client) -> String {
    let seed = client.refresh.as_ref().map_or("", |secret| secret.expose_secret());
    hex(&Sha256::digest(seed.as_bytes()))
}

fn shape(oauth2: &OAuth2, client: &Client) -> String {
    let mut hash = Sha256::new();
    let mut part = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    };
    part(oauth2.grant.as_str());
    part(oauth2.token_url.as_str());
    part(client.id.as_deref().unwrap_or_default());
    part(oauth2.scope.as_deref().unwrap_or_default());
    for (name, value) in &oauth2.params {
        part(name);
        part(value);
    }
    if let Some((jwt, _)) = &oauth2.assertion {
        part(&format!("{:?}{:?}", jwt.headers, jwt.claims));
    }
    hex(&hash.finalize())
}

/// From so many bytes on a client's id is taken out of what a server says.
const ID_HIDDEN_MIN: usize = 12;

/// Everything that is sent to a server, for what comes back.
fn sent(client: &Client) -> Redactor {
    let secrets = [&client.secret, &client.refresh].into_iter().flatten();
    let mut texts: Vec<String> = secrets.map(|secret| secret.expose_secret().to_owned()).collect();
    // It may have come as a secret; a short one is a word like others.
    texts.extend(client.id.clone().filter(|id| id.len() >= ID_HIDDEN_MIN));
    if let (Some(id), Some(secret)) = (&client.id, &client.secret) {
        // As `client_in = "header"` sends them (RFC 7617).
        texts.push(STANDARD.encode(format!("{id}:{}", secret.expose_secret())));
    }
    texts.extend(client.assertion.iter().map(|(text, _)| text.clone()));
    Redactor::new(&texts, &[])
}

fn read(kept: Option<&Kept>) -> Result<Option<Record>, Failed> {
    let Some(kept) = kept else { return Ok(None) };
    let unreadable = || Failed {
        code: Code::TokenNotKept,
        reason: "its record of tokens cannot be read by this version; nothing was changed".into(),
        after: None,
        lasting: true,
    };
    let record: Record = serde_json::from_slice(&kept.record).map_err(|_| unreadable())?;
    if record.form == FORM { Ok(Some(record)) } else { Err(unreadable()) }
}

fn written(record: &Record) -> Bytes {
    serde_json::to_vec(record).expect("a record is plain JSON").into()
}

/// The last call is over: the server has counted it by `ended_ms`, or a guard later if no answer shows that.
fn charge(limits: &LimitSet, calls_ms: &mut [i64], ended_ms: i64, is_silent: bool) {
    let guard = if is_silent { limits.guard_max() } else { Span::ZERO };
    if let Some(last) = calls_ms.last_mut() {
        *last = ended_ms.saturating_add(in_ms(guard)).max(*last);
    }
}

/// Rounded up: stored times are cut to milliseconds.
fn in_ms(span: Span) -> i64 {
    i64::try_from(span.0.div_ceil(1000)).unwrap_or(i64::MAX)
}

/// Calls that were counted by a clock that was ahead were made by now: they count as that, and as one without an
/// answer does. Otherwise they would keep the server from being asked for as long as that clock was ahead. Whether
/// there are any.
fn not_ahead(limits: &LimitSet, calls_ms: &mut [i64], now_ms: i64) -> bool {
    let by_now = now_ms.saturating_add(in_ms(limits.guard_max()));
    let latest = by_now.saturating_add(AHEAD_MAX_MS);
    let ahead = calls_ms.iter_mut().filter(|ms| **ms > latest);
    ahead.map(|ms| *ms = by_now).count() > 0
}

/// Leaves out calls that no limit goes back to, and the oldest beyond the bound.
fn forget(limits: &LimitSet, calls_ms: &mut Vec<i64>, now_ms: i64) {
    let window = i64::try_from(limits.window_max().0 / 1000).unwrap_or(i64::MAX);
    calls_ms.retain(|ms| *ms >= now_ms.saturating_sub(window));
    let beyond = calls_ms.len().saturating_sub(CALLS_MAX);
    calls_ms.drain(..beyond);
}
