//! What can be asked of a data folder, whether a node works on it or not.
//!
//! A running node answers on a Unix socket in its state folder, readable by its owner alone; without one
//! the same questions are answered from the folder itself. One request and one answer per connection,
//! each a line of JSON.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::clock::Clock;
use crate::cluster::Owned;
use crate::codes::Code;
use crate::doctor::Evidence;
use crate::ids::{Account, AccountKey, Seq, Slug};
use crate::levels::{Levels, Told, Wish};
use crate::node::{Examiner, Intake, Viewer};
use crate::plan::{InForce, Plan};
use crate::queue::{Letter, NewFetch, Queue, QueueError};
use crate::recipe::check_fetch;
use crate::shard::AccountLook;
use crate::view::{AccountView, AccountsPage, AccountsQuestion, Eta, Overview};

/// The socket's name in the state folder.
const SOCKET: &str = "control.sock";
/// Longest request in bytes.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// Longest answer in bytes.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most accounts, and most dead letters, in one answer.
pub const ROWS_MAX: usize = 10_000;
/// Dead letters read at once where all are looked through: their queue has others to serve.
const LETTERS_AT_ONCE: usize = 256;

/// How long it is known whose letters there are: pages ask every 3 s.
const LETTERED_FOR: Duration = Duration::from_secs(10);

/// A question.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// What waits, and why.
    Status {
        /// Only this platform.
        platform: Option<String>,
        /// Only this account.
        account: Option<String>,
        /// Most accounts told one by one.
        most: usize,
    },
    /// One account with all that holds it.
    Account {
        /// Its platform.
        platform: String,
        /// Whom that counts.
        account: String,
    },
    /// A page of accounts.
    Accounts(AccountsQuestion),
    /// What all accounts come to: sums, rates, platforms.
    Overview,
    /// What holds it back now.
    Doctor {
        /// Over how many seconds until now, a minute at most.
        window_s: u64,
    },
    /// Dead letters, in the order of their numbers.
    Dead {
        /// Only those with higher numbers.
        after: Option<u64>,
        /// Most of them.
        most: usize,
    },
    /// Takes a dead letter out of the list: collects its fetch again, or forgets it.
    Revive {
        /// Which, by its number in the list.
        seq: u64,
        /// Collect it again.
        replay: bool,
    },
    /// What a node logs.
    LogLevel {
        /// What is to be; nothing: it is only asked.
        wish: Option<Wish>,
    },
}

/// What waits.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Status {
    /// Whether a node works on the folder.
    pub running: bool,
    /// Fetches that wait.
    pub waiting: u64,
    /// Fetches put aside until their `not_before`; nothing where that could not be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postponed: Option<u64>,
    /// Attempts in flight.
    pub in_flight: u64,
    /// The nodes of a cluster that answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Which of the 64 partitions of the accounts each of them holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<HeldBy>,
    /// The limits that each of them goes by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configs: Vec<GoesBy>,
    /// When the last of what waits would be done, but for `without_eta`; told of all accounts alone, not of a platform or
    /// an account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<Eta>,
    /// As of an overview: fetches of which nobody can tell when they are done. Nothing where `eta` is not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without_eta: Option<u64>,
    /// Accounts one by one, those with the most waiting first.
    pub accounts: Vec<AccountLook>,
}

/// The limits of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoesBy {
    /// Its name.
    pub node: String,
    /// The hash of its own limits.
    pub config: String,
}

/// The partitions of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBy {
    /// Its name.
    pub node: String,
    /// Their numbers, in order.
    pub partitions: Vec<u32>,
    /// Attempts of other nodes' accounts that it makes now.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub guests: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature serde's `skip_serializing_if` asks for
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To `Status`.
    Status(Status),
    /// To `Account`; nothing where nothing is known of it.
    Account(Option<Box<AccountView>>),
    /// To `Accounts`.
    Accounts(AccountsPage),
    /// To `Overview`.
    Overview(Box<Overview>),
    /// To `Doctor`, from a running node.
    Doctor(Box<Evidence>),
    /// To `Dead`.
    Dead(Vec<Letter>),
    /// To `Revive`: true if there was such a letter.
    Revived(bool),
    /// To `LogLevel`: what is logged from now on.
    LogLevel(Told),
    /// It could not be answered.
    Failed {
        /// Why, as a code.
        code: String,
        /// Why, as a sentence.
        reason: String,
    },
}

/// What a running node answers from.
#[derive(Debug, Clone)]
pub struct Desk {
    /// The configuration in force.
    pub plan: InForce,
    /// Its accounts.
    pub viewer: Viewer,
    /// What holds it back.
    pub examiner: Examiner,
    /// Its queue.
    pub intake: Intake,
    /// What it owns.
    pub owned: Owned,
    /// What it logs.
    pub levels: Levels,
    /// Whose fetches were given up.
    pub lettered: Lettered,
}

/// The accounts with dead letters, as of up to `LETTERED_FOR` ago: pages ask for them every few seconds, and each look
/// reads up to [`ROWS_MAX`] whole letters. One look at a time; what changes letters here ends what is known.
#[derive(Debug, Clone, Default)]
pub struct Lettered(Arc<Mutex<Option<Seen>>>);

/// When they were looked for, and who they were.
type Seen = (Instant, BTreeSet<AccountKey>);

impl Lettered {
    async fn of(&self, queue: &dyn Queue) -> Result<BTreeSet<AccountKey>, QueueError> {
        let mut known = self.0.lock().await;
        if let Some((at, keys)) = known.as_ref()
            && at.elapsed() < LETTERED_FOR
        {
            return Ok(keys.clone());
        }
        let keys = with_letters(queue).await?;
        *known = Some((Instant::now(), keys.clone()));
        Ok(keys)
    }

    async fn forget(&self) {
        *self.0.lock().await = None;
    }
}

impl Desk {
    fn held(&self) -> Option<HeldBy> {
        let node = self.plan.get().node_name.clone();
        let partitions = self.owned.ours().iter().collect();
        self.owned.is_shared().then_some(HeldBy { node, partitions, guests: self.viewer.guests() })
    }

    fn goes_by(&self) -> Option<GoesBy> {
        let plan = self.plan.get();
        let (node, config) = (plan.node_name.clone(), plan.hash.clone());
        self.owned.is_shared().then_some(GoesBy { node, config })
    }

    /// The answer to a request, a line of JSON.
    pub async fn answer(&self, request: &[u8]) -> Answer {
        match serde_json::from_slice(request) {
            Ok(Request::Account { platform, account }) => self.account(&platform, &account).await,
            Ok(Request::Accounts(question)) => self.accounts(&question).await,
            Ok(Request::Overview) => Answer::Overview(Box::new(self.overview().await)),
            Ok(Request::Status { platform, account, most }) => {
                let of_all = platform.is_none() && account.is_none();
                let overview = if of_all { Some(self.viewer.overview().await) } else { None };
                let without_eta = overview.as_ref().map(|all| all.without_eta);
                let looks = self.viewer.look(platform, account, most.min(ROWS_MAX)).await;
                let postponed = self.intake.queue().postponed().await.ok();
                Answer::Status(Status {
                    running: true,
                    waiting: looks.waiting,
                    postponed,
                    in_flight: looks.in_flight,
                    nodes: Vec::new(),
                    partitions: self.held().into_iter().collect(),
                    configs: self.goes_by().into_iter().collect(),
                    eta: overview.and_then(|all| all.eta),
                    without_eta,
                    accounts: looks.accounts,
                })
            }
            Ok(Request::Doctor { window_s }) => {
                let evidence = self.examiner.evidence(Duration::from_secs(window_s)).await;
                Answer::Doctor(Box::new(evidence))
            }
            Ok(Request::Dead { after, most }) => dead(&**self.intake.queue(), after, most).await,
            Ok(Request::Revive { seq, replay }) => {
                let answer = revive(&self.plan.get(), &self.intake, seq, replay).await;
                self.lettered.forget().await;
                answer
            }
            Ok(Request::LogLevel { wish }) => self.log_level(wish.as_ref()),
            Err(error) => Answer::Failed { code: String::new(), reason: error.to_string() },
        }
    }

    async fn account(&self, platform: &str, account: &str) -> Answer {
        let key = Slug::new(platform)
            .and_then(|platform| Ok(AccountKey { platform, account: Account::new(account)? }));
        match key {
            Ok(key) => match self.viewer.account(key).await {
                Ok(view) => Answer::Account(view.map(Box::new)),
                Err(reason) => failed(Code::NotAtWork, &reason),
            },
            Err(reason) => Answer::Failed { code: String::new(), reason },
        }
    }

    async fn accounts(&self, question: &AccountsQuestion) -> Answer {
        let dead = if question.dead {
            match self.lettered.of(&**self.intake.queue()).await {
                Ok(dead) => Some(dead.into_iter().filter(|key| self.owned.has(key)).collect()),
                Err(error) => return failed(Code::QueueUnavailable, &error.to_string()),
            }
        } else {
            None
        };
        match self.viewer.accounts(question, dead).await {
            Ok(page) => Answer::Accounts(page),
            Err(reason) => Answer::Failed { code: String::new(), reason },
        }
    }

    async fn overview(&self) -> Overview {
        let mut overview = self.viewer.overview().await;
        let queue = self.intake.queue();
        overview.postponed = queue.postponed().await.ok();
        overview.dead = queue.dead_count().await.ok();
        overview
    }

    fn log_level(&self, wish: Option<&Wish>) -> Answer {
        let told = match wish {
            None => Ok(self.levels.told()),
            Some(wish) => self.levels.wish(wish, Clock::new().wall()),
        };
        told.map_or_else(|reason| Answer::Failed { code: String::new(), reason }, Answer::LogLevel)
    }
}

/// Where the socket of a state folder is.
pub fn socket(state: &Path) -> PathBuf {
    state.join(SOCKET)
}

/// Answers requests until dropped. The state folder must be locked by this process: a socket that is
/// there is then a dead one's.
///
/// # Errors
/// The socket cannot be made (a path of more than about 100 bytes is too long for one): the node works
/// without.
pub fn serve(state: &Path, desk: Desk) -> std::io::Result<impl Future<Output = ()> + use<>> {
    let path = socket(state);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, owner_only)?;
    let removed = RemoveOnDrop(path);
    Ok(async move {
        let _removed = removed;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let desk = desk.clone();
                    // One at a time: a question takes milliseconds, and who asks is one person.
                    let _done = timeout(PATIENCE, converse(stream, desk)).await;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    })
}

struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        // Left behind it does no harm: the next node replaces it, and nobody listens on it.
        let _removed = std::fs::remove_file(&self.0);
    }
}

async fn converse(stream: UnixStream, desk: Desk) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(REQUEST_BYTES_MAX)).read_line(&mut line).await?;
    let answer = desk.answer(line.as_bytes()).await;
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    write.shutdown().await
}

/// Asks the node that works on a state folder; nothing if none does.
///
/// # Errors
/// It is there and does not answer.
pub async fn ask(state: &Path, request: &Request) -> std::io::Result<Option<Answer>> {
    let Ok(mut stream) = UnixStream::connect(socket(state)).await else { return Ok(None) };
    let conversation = async {
        let mut text = serde_json::to_vec(request)?;
        text.push(b'\n');
        stream.write_all(&text).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        Ok(Some(serde_json::from_slice(&answer)?))
    };
    timeout(PATIENCE, conversation).await.unwrap_or_else(|_| {
        Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "the running node does not answer"))
    })
}

/// The accounts with dead letters, by the first [`ROWS_MAX`] of these.
pub(crate) async fn with_letters(queue: &dyn Queue) -> Result<BTreeSet<AccountKey>, QueueError> {
    let (mut known, mut after, mut seen) = (BTreeSet::new(), None, 0);
    while seen < ROWS_MAX {
        let letters = queue.dead(after, LETTERS_AT_ONCE).await?;
        let is_last = letters.len() < LETTERS_AT_ONCE;
        seen += letters.len();
        for letter in letters {
            after = Some(letter.number);
            let Some(fetch) = &letter.dead.fetch else { continue };
            let (Some(platform), Some(account)) = (&fetch.platform, &fetch.account) else {
                continue;
            };
            let names = (Slug::new(platform), Account::new(account));
            if let (Ok(platform), Ok(account)) = names {
                known.insert(AccountKey { platform, account });
            }
        }
        if is_last {
            break;
        }
    }
    Ok(known)
}

/// Dead letters of a queue.
pub async fn dead(queue: &dyn Queue, after: Option<u64>, most: usize) -> Answer {
    match queue.dead(after.map(Seq), most.min(ROWS_MAX)).await {
        Ok(dead) => Answer::Dead(dead),
        Err(error) => failed(Code::QueueUnavailable, &error.to_string()),
    }
}

/// Takes a dead letter out of the list.
pub async fn revive(plan: &Plan, intake: &Intake, seq: u64, replay: bool) -> Answer {
    let before = seq.checked_sub(1).map(Seq);
    let letter = match intake.queue().dead(before, 1).await {
        Ok(letters) => letters.into_iter().find(|letter| letter.number == Seq(seq)),
        Err(error) => return failed(Code::QueueUnavailable, &error.to_string()),
    };
    let Some(Letter { dead: letter, .. }) = letter else { return Answer::Revived(false) };
    let fetch = if replay {
        let Some(fetch) = &letter.fetch else {
            let reason = format!(
                "dead letter {seq} never was a fetch; mend the line and run it: {}",
                letter.reason
            );
            return Answer::Failed { code: letter.code, reason };
        };
        let text = serde_json::to_vec(fetch).unwrap_or_default();
        match check_fetch(plan, &text) {
            Ok(accepted) => Some(NewFetch {
                lane: accepted.lane,
                id: accepted.id,
                payload: accepted.payload,
                not_before: accepted.fetch.not_before,
            }),
            Err(refusal) => return failed(refusal.code, &refusal.reason),
        }
    } else {
        None
    };
    match intake.revive(Seq(seq), fetch).await {
        Ok(revived) => Answer::Revived(revived),
        Err(error) => failed(Code::QueueUnavailable, &error.to_string()),
    }
}

fn failed(code: Code, reason: &str) -> Answer {
    Answer::Failed { code: code.to_string(), reason: reason.to_owned() }
}
