//! What a validated configuration says: types that cannot be wrong, read by every part of a node.
//!
//! `config` builds it from text and lists all mistakes; nothing else does, and nothing here reads a file,
//! an environment variable or a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::{HeaderName, Method};
use object_store::path::Path;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tollgate_gate::LimitSet;
use tollgate_stage::Table;
use url::Url;

use crate::answers::Answers;
use crate::auth::Auth;
use crate::calendar::Resets;
use crate::costs::Costs;
use crate::ids::{Account, Slug};
use crate::levels::Filter;
use crate::observe::Rules;
use crate::pages::Pages;
use crate::recipe::{Body, LongQuery, Pair, Template, Zones};

/// A whole node.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name of this node in logs.
    pub node_name: String,
    /// The data folder; `state/` below it holds queue, ledger and spool.
    pub data: PathBuf,
    /// Where objects go.
    pub store: StorePlan,
    /// How calls are made.
    pub collect: CollectPlan,
    /// Where NATS is; only `serve` and its friends use it.
    pub nats: NatsPlan,
    /// Where `serve` answers HTTP; None: nowhere.
    pub http: Option<HttpPlan>,
    /// What is logged.
    pub log: LogPlan,
    /// Where spans go; None: nothing is traced.
    pub traces: Option<TracePlan>,
    /// What is told when something is wrong for long; None: nothing.
    pub notify: Option<NotifyPlan>,
    /// The providers, by name.
    pub platforms: BTreeMap<Slug, Arc<Platform>>,
    /// What raw answers become in Parquet, by name.
    pub stages: BTreeMap<Slug, Arc<StagePlan>>,
    /// First 16 hex digits of the SHA-256 of the limits in force.
    pub hash: String,
    /// How fetches are collected.
    pub how: How,
    /// Tells the recipes of apis apart, by platform and api: 16 digits of a SHA-256 of what the platform says of all its
    /// apis, limits left out, and of the api.
    pub recipes: BTreeMap<String, BTreeMap<String, String>>,
}

/// Tells configurations apart that collect the same fetch in another way. Nodes for whom it is the same may make each
/// other's attempts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct How {
    /// First 16 hex digits of the SHA-256 of what is said of platforms and calls, and of this program's version.
    pub calls: String,
    /// The same of where objects go.
    pub store: String,
}

impl Plan {
    /// The state folder: embedded queue and ledger, lock, control socket.
    pub fn state(&self) -> PathBuf {
        self.data.join("state")
    }
}

/// The plan in force: whoever asks each time follows when the configuration is read anew. It is replaced as a
/// whole, never changed.
#[derive(Debug, Clone)]
pub struct InForce(Arc<RwLock<Arc<Plan>>>);

impl InForce {
    /// This one, until another takes its place.
    pub fn new(plan: Arc<Plan>) -> Self {
        Self(Arc::new(RwLock::new(plan)))
    }

    /// The one of now.
    pub fn get(&self) -> Arc<Plan> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another in its place, for all who hold a copy of this.
    pub(crate) fn put(&self, plan: Arc<Plan>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = plan;
    }
}

/// Where `/healthz`, `/readyz`, `/metrics`, the page and the API are.
#[derive(Debug, Clone)]
pub struct HttpPlan {
    /// Address and port. Default 127.0.0.1:9464.
    pub listen: SocketAddr,
    /// What the page and the API ask for; None: nobody is asked on loopback, and nobody is answered elsewhere.
    pub token: Option<SecretString>,
}

impl PartialEq for HttpPlan {
    fn eq(&self, other: &Self) -> bool {
        let token = |plan: &Self| plan.token.as_ref().map(|token| token.expose_secret().to_owned());
        self.listen == other.listen && token(self) == token(other)
    }
}

impl Eq for HttpPlan {}

/// Where traces of fetches go.
#[derive(Debug, Clone, PartialEq)]
pub struct TracePlan {
    /// Where a collector takes OTLP over HTTP, in protobuf.
    pub endpoint: Url,
    /// Which part of the fetches is traced, of those whose publishers say nothing of it; 0 to 1. Default 0.01.
    pub sample: f64,
}

/// What is told when something is wrong for long, and to whom.
#[derive(Debug, Clone, PartialEq)]
pub struct NotifyPlan {
    /// How long an account is held before it is told. Default 15 min.
    pub held_after: Duration,
    /// Dead letters of a platform beyond which it is told. Default 100.
    pub dead_over: u64,
    /// How long the object store takes no bodies before it is told. Default 5 min.
    pub store_after: Duration,
    /// How long a shard's loop does not turn before it is told. Default 10 s.
    pub blocked_after: Duration,
    /// After how long it is told again. Default 6 h.
    pub repeat_after: Duration,
    /// Whether it is told on NATS too, by `serve`. Default: yes.
    pub nats: bool,
    /// Where it is posted.
    pub webhooks: Vec<WebhookPlan>,
}

/// Where notices are posted. Read once; a secret that changes needs a restart.
#[derive(Clone)]
pub struct WebhookPlan {
    /// Its name in logs and metrics.
    pub name: Slug,
    /// It may hold a secret: only its host is ever shown.
    pub url: Url,
    /// Sent with every request; their values are secrets.
    pub headers: Vec<(HeaderName, SecretString)>,
    /// What it is signed with.
    pub key: Option<SecretSlice<u8>>,
    /// What one request may take. Default 15 s.
    pub timeout: Duration,
}

impl WebhookPlan {
    /// Scheme, host and port.
    pub fn host(&self) -> String {
        self.url.origin().ascii_serialization()
    }
}

impl PartialEq for WebhookPlan {
    fn eq(&self, other: &Self) -> bool {
        let headers = |plan: &Self| -> Vec<(HeaderName, String)> {
            let headers = plan.headers.iter();
            headers.map(|(name, value)| (name.clone(), value.expose_secret().to_owned())).collect()
        };
        let key = |plan: &Self| plan.key.as_ref().map(|key| key.expose_secret().to_vec());
        (&self.name, &self.url, self.timeout) == (&other.name, &other.url, other.timeout)
            && key(self) == key(other)
            && headers(self) == headers(other)
    }
}

impl fmt::Debug for WebhookPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookPlan")
            .field("name", &self.name)
            .field("host", &self.host())
            .finish_non_exhaustive()
    }
}

/// What a node tells of itself in its logs; followed while it works.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogPlan {
    /// What is told; nothing: what the command does by itself. The command line goes before it.
    pub level: Option<Filter>,
    /// Lines of one event in one second; the number of those beyond is told. 0: any number. Default 1000.
    pub per_second_max: u32,
}

/// Where NATS is, and what is Tollgate's there.
#[derive(Debug, Clone)]
pub struct NatsPlan {
    /// Whether the configuration says anything of NATS.
    pub declared: bool,
    /// Servers of one cluster.
    pub urls: Vec<String>,
    /// First token of every subject; streams and buckets have it in upper case.
    pub prefix: Slug,
    /// Copies of every stream and bucket: 1, 3 or 5.
    pub replicas: usize,
    /// A credentials file.
    pub creds: Option<PathBuf>,
    /// A file with the seed of an nkey, where users are told apart by their public keys.
    pub nkey: Option<PathBuf>,
    /// A name and its password.
    pub user: Option<(String, SecretString)>,
    /// First tokens of the subjects on which answers come. Who may subscribe to those of a node sees what it reads.
    /// Default `_INBOX`.
    pub inbox: String,
    /// TLS beyond what a URL says.
    pub tls: Option<NatsTls>,
    /// Whether `serve` makes and upgrades streams itself. Default true.
    pub setup: bool,
    /// Most bytes of waiting fetches; more are refused to whoever publishes. None: what the server has.
    pub fetch_bytes_max: Option<u64>,
    /// A node that has not shown itself for so long has lost its accounts to others. Whole seconds. Default 4 s.
    pub lease: Duration,
}

/// Files of TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NatsTls {
    /// Certificates to trust beside the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// Where objects go.
#[derive(Debug, Clone)]
pub struct StorePlan {
    /// Which store.
    pub target: StoreTarget,
    /// Where in it; names platform, api, account, date, id, page, ext, `params.NAME`.
    pub key: Template,
    /// The names that `key` leaves out, of those that tell fetches apart: different fetches may ask for the same key.
    pub narrow: Vec<&'static str>,
    /// How bodies are stored.
    pub compression: Compression,
    /// Whether files are fsynced before they count as stored, and queue and ledger before a permit is used
    /// or a fetch is done. Default false: kill -9 loses nothing, a power cut may.
    pub fsync: bool,
    /// Whether JSON Lines about every object are kept below `_manifests/`. Default true.
    pub lines: bool,
    /// Most bytes of answers that wait on the disk while a bucket is away; 0: their calls are made again. Default
    /// 0.
    pub spool_bytes_max: u64,
}

/// A table of Parquet files that raw answers become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagePlan {
    /// What the keys of the objects begin with.
    pub from: Path,
    /// What the keys of the files begin with.
    pub to: Path,
    /// Whether only objects that a manifest names are taken. Default true.
    pub manifest: bool,
    /// What the rows are.
    pub table: Table,
    /// Size of files that one is closed at, in bytes. Default 128 MiB.
    pub file_bytes: u64,
    /// Largest record, in bytes. Default 16 MiB.
    pub record_bytes_max: u64,
    /// Nodes stage by themselves what was collected, at the latest so long after it was; None: only `tollgate stage` does.
    pub follow: Option<Duration>,
    /// How far apart objects may have been stored whose rows small files are put together of; zero: none are. Default 24 h.
    pub merge_within: Duration,
}

/// A store by URL.
#[derive(Debug, Clone)]
pub enum StoreTarget {
    /// `file:PATH`.
    File(PathBuf),
    /// `memory:`; gone when the process ends.
    Memory,
    /// `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`.
    Bucket(Box<BucketPlan>),
}

/// A bucket (Azure calls it a container): where it is and who asks.
#[derive(Debug, Clone)]
pub struct BucketPlan {
    /// Its name.
    pub bucket: String,
    /// What every key begins with, without a slash at either end; empty: nothing.
    pub prefix: String,
    /// `scheme://host[:port][/path]` of a compatible store or an emulator; `http` only where the configuration
    /// allows it. None: the provider's own.
    pub endpoint: Option<Url>,
    /// Most operations at once, over the whole node; 1 to 4,096.
    pub concurrency: usize,
    /// Whose language it speaks.
    pub provider: Provider,
}

/// Whose language a bucket speaks, and what only that one has.
#[derive(Debug, Clone)]
pub enum Provider {
    /// Amazon S3, or a store that speaks its language.
    S3 {
        /// Part of each signature.
        region: String,
        /// Whether the bucket stands in the path of a URL, and not in its host.
        path_style: bool,
        /// Who asks.
        credentials: S3Credentials,
    },
    /// Google Cloud Storage, by its XML API.
    Google(GoogleCredentials),
    /// Azure Blob Storage.
    Azure {
        /// The storage account.
        account: String,
        /// Who asks.
        credentials: AzureCredentials,
    },
}

/// Where the keys come from that requests to a bucket of S3 are signed with.
#[derive(Debug, Clone)]
pub enum S3Credentials {
    /// From the configuration's references or the environment; the same until the process ends.
    Keys {
        /// The access key id.
        id: SecretString,
        /// The secret access key.
        secret: SecretString,
        /// The session token of temporary keys.
        token: Option<SecretString>,
    },
    /// Temporary ones, fetched and renewed: from a web identity, a container's or the instance's service,
    /// as these variables of the environment say (`AWS_ROLE_ARN` and so on; none: the instance's).
    Ambient(Vec<(String, String)>),
}

/// Where the tokens come from that Google is shown. All but a given one are renewed.
#[derive(Debug, Clone)]
pub enum GoogleCredentials {
    /// The key of a service account, in JSON.
    ServiceAccount(SecretString),
    /// The file of `GOOGLE_APPLICATION_CREDENTIALS`: a service account's key, or a user's of `gcloud`.
    File(PathBuf),
    /// A token that was given; the same until the process ends.
    Token(SecretString),
    /// What `gcloud` has left for applications, or else the machine's metadata server.
    Ambient,
}

/// What Azure is shown. A principal's tokens and those of this machine are renewed.
#[derive(Debug, Clone)]
pub enum AzureCredentials {
    /// The key of the account, in base64.
    Key(SecretString),
    /// A shared access signature.
    Sas(SecretString),
    /// A service principal and its secret.
    Principal {
        /// Its directory.
        tenant: String,
        /// Its id.
        client: String,
        /// Its secret.
        secret: SecretString,
        /// Where it signs in, as an URL without a slash at its end; none: at Azure's public cloud.
        authority: Option<String>,
    },
    /// A workload identity or the machine's managed one, as these variables of the environment say
    /// (`AZURE_FEDERATED_TOKEN_FILE` and so on; none: the machine's own).
    Ambient(Vec<(String, String)>),
}

impl BucketPlan {
    /// Whether it is the same bucket with the same secrets, which no debug form tells.
    pub fn is_same(&self, other: &Self) -> bool {
        let texts = |plan: &Self| -> Vec<String> {
            let secrets = plan.secrets().into_iter();
            secrets.map(|secret| secret.expose_secret().to_owned()).collect()
        };
        format!("{self:?}") == format!("{other:?}") && texts(self) == texts(other)
    }

    fn secrets(&self) -> Vec<&SecretString> {
        match &self.provider {
            Provider::S3 { credentials: S3Credentials::Keys { id, secret, token }, .. } => {
                [Some(id), Some(secret), token.as_ref()].into_iter().flatten().collect()
            }
            Provider::Google(
                GoogleCredentials::ServiceAccount(secret) | GoogleCredentials::Token(secret),
            )
            | Provider::Azure {
                credentials:
                    AzureCredentials::Key(secret)
                    | AzureCredentials::Sas(secret)
                    | AzureCredentials::Principal { secret, .. },
                ..
            } => vec![secret],
            Provider::S3 { credentials: S3Credentials::Ambient(_), .. }
            | Provider::Google(GoogleCredentials::File(_) | GoogleCredentials::Ambient)
            | Provider::Azure { credentials: AzureCredentials::Ambient(_), .. } => Vec::new(),
        }
    }
}

/// How bodies are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// `.gz`.
    Gzip,
    /// `.zst`.
    Zstd,
}

impl Compression {
    /// What a key's extension ends in: `""`, `".gz"`, `".zst"`.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
        }
    }
}

/// How calls are made.
#[derive(Debug, Clone)]
pub struct CollectPlan {
    /// Attempts in flight on this node, over all shards; 1 to 65,536.
    pub concurrency: usize,
    /// Shards (threads with their own actors); default: cores.
    pub shards: usize,
    /// Bodies on their way over the whole node, in bytes.
    pub buffer_bytes_max: u64,
    /// Largest body after decompression, in bytes.
    pub body_bytes_max: u64,
    /// Most calls for one fetch before it is dead; 1 to 100.
    pub attempts_max: u32,
    /// How long a drain lets running calls go on.
    pub drain: Duration,
    /// Whether attempts go to other nodes while all slots are taken here, and theirs may come here. Default true; of
    /// `serve` only.
    pub spill_over: bool,
}

/// How long a call may take to get on; each at most 1 h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// DNS, TCP and TLS together.
    pub connect: Duration,
    /// From the request until the answer's head.
    pub first_byte: Duration,
    /// Between two pieces of the body.
    pub stall: Duration,
}

/// A provider.
#[derive(Debug, Clone)]
pub struct Platform {
    /// Its name.
    pub name: Slug,
    /// What paths are joined to; http or https, ends in `/`.
    pub base_url: Url,
    /// Hosts that may be called beside the base URL's: lower case, with `:port` where it is not the
    /// scheme's own. The platform's headers and secrets go there too.
    pub allowed_hosts: Vec<String>,
    /// Those of `allowed_hosts` that get no credentials.
    pub bare_hosts: Vec<String>,
    /// Sent with every call.
    pub headers: Vec<(HeaderName, Template)>,
    /// Whose days `{today}` means; none: UTC's.
    pub zone: Option<Zones>,
    /// How calls are authorised, but for apis that say it themselves.
    pub auth: Option<Auth>,
    /// Every limit of the platform and its apis that is counted per account; an api's number in it is its
    /// place in `apis`. Calendar windows, also those of budgets, start anew only after
    /// [`crate::calendar::plan_on`].
    pub limits: Arc<LimitSet>,
    /// When calendar windows start anew, by the numbers in the limits' rules.
    pub resets: Vec<Resets>,
    /// What calls cost under each limit of `limits`.
    pub costs: Costs,
    /// The limits that are not counted per account, by whom they count together.
    pub budgets: Vec<Budget>,
    /// Which reading of the configuration this is of; later ones are greater.
    pub generation: Generation,
    /// What the dimensions of budgets stand for that the operator gives values to.
    pub keys: Vec<(Dim, Template)>,
    /// Accounts that are not like the others.
    pub tiers: Tiers,
    /// The same platform with other values of its limits, for the accounts that have such.
    pub special: Special<Arc<Self>>,
    /// The endpoints.
    pub apis: Vec<Api>,
    /// The places of the limits that answers of any api tell something of.
    pub observed: Vec<usize>,
    /// How long the slot of a call lost in a crash stays taken. Default 1 min.
    pub lost_call: Duration,
    /// The same where the process that made the call may still live, cut off: its call may go on. Default
    /// 10 min; what is declared counts for both.
    pub lost_call_alive: Duration,
}

impl Platform {
    /// The endpoint of that name, and its number.
    pub fn api(&self, name: &str) -> Option<(u16, &Api)> {
        self.apis
            .iter()
            .position(|api| api.name.as_str() == name)
            .map(|i| (i as u16, &self.apis[i]))
    }

    /// The platform as an account knows it: with the values of limits that are its own.
    pub fn of(self: &Arc<Self>, account: &Account) -> Arc<Self> {
        Arc::clone(self.special_of(account).unwrap_or(self))
    }

    /// What the account knows instead, if it has values of limits that are its own.
    pub(crate) fn special_of(&self, account: &Account) -> Option<&Arc<Self>> {
        if self.special.is_empty() {
            return None;
        }
        self.special.of(account.as_str(), self.tiers.name_of(account))
    }
}

/// Which reading of a configuration in this process; later ones are greater. It is shown as nothing: two readings
/// of the same text are the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub(crate) u64);

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Generation")
    }
}

/// Limits that count calls together by other keys than the account: one budget for each value of the key.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Names it among the platform's: its dimensions, and when it counts.
    pub id: String,
    /// The dimensions of its key, in the order of their names.
    pub dims: Vec<Dim>,
    /// Which calls it counts.
    pub when: When,
    /// Its limits; numbers of apis and calendars are those of the platform.
    pub counted: Counted,
    /// Its limits where a value of the key, or an account's tier, has other ones.
    pub special: Special<Counted>,
    /// The places of its limits that answers of any api tell something of.
    pub observed: Vec<usize>,
}

/// Limits, and what calls cost under them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    /// The limits.
    pub limits: Arc<LimitSet>,
    /// By their places.
    pub costs: Arc<Costs>,
}

/// By what a limit tells calls apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dim {
    /// Whom the provider counts.
    Account,
    /// Each endpoint.
    Api,
    /// Nothing: all calls of the platform together.
    Platform,
    /// The operator's application with the provider.
    App,
    /// The credentials.
    Token,
    /// Whom the credentials belong to.
    User,
    /// The address that calls come from.
    Ip,
    /// The provider's region.
    Region,
    /// The value of a parameter.
    Param(String),
}

impl Dim {
    /// The dimension of that name, `params.NAME` for a parameter.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "account" => Self::Account,
            "api" => Self::Api,
            "platform" => Self::Platform,
            "app" => Self::App,
            "token" => Self::Token,
            "user" => Self::User,
            "ip" => Self::Ip,
            "region" => Self::Region,
            name => Self::Param(name.strip_prefix("params.").filter(|n| !n.is_empty())?.to_owned()),
        })
    }

    /// Whether its values are given by the platform's `keys`.
    pub fn is_declared(&self) -> bool {
        matches!(self, Self::App | Self::Token | Self::User | Self::Ip | Self::Region)
    }
}

impl std::fmt::Display for Dim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Account => "account",
            Self::Api => "api",
            Self::Platform => "platform",
            Self::App => "app",
            Self::Token => "token",
            Self::User => "user",
            Self::Ip => "ip",
            Self::Region => "region",
            Self::Param(name) => return write!(f, "params.{name}"),
        })
    }
}

/// Which calls a limit counts, by the shape of their fetch; the default: all.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct When {
    /// Only calls of these apis; empty: of all.
    pub apis: Vec<Slug>,
    /// What must hold of these parameters.
    pub params: Vec<(String, Test)>,
}

impl When {
    /// Whether it counts every call.
    pub fn always(&self) -> bool {
        self.apis.is_empty() && self.params.is_empty()
    }
}

/// What must hold of a parameter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Test {
    /// It has a value.
    Present,
    /// It has none.
    Absent,
    /// It has one value: not a list of several, nor a text with commas.
    One,
    /// It is a list of several values, or a text with commas between them.
    Several,
    /// It is one of these texts.
    Is(Vec<String>),
    /// It is a number between these, both included.
    Between(Option<i64>, Option<i64>),
}

/// Accounts that are not like the others.
#[derive(Debug, Clone, Default)]
pub struct Tiers {
    /// Their names, and how many turns an account of theirs has in a budget for one of others; 1 to 1,000.
    pub tiers: Vec<(Slug, u32)>,
    /// Which account is in which, by its place above.
    pub accounts: BTreeMap<Account, u16>,
}

impl Tiers {
    /// The tier of an account.
    pub fn name_of(&self, account: &Account) -> Option<&str> {
        let place = self.accounts.get(account)?;
        self.tiers.get(usize::from(*place)).map(|(name, _)| name.as_str())
    }

    /// Turns of an account in a budget for one of others.
    pub fn weight_of(&self, account: &Account) -> u32 {
        let place =
            self.accounts.get(account).and_then(|place| self.tiers.get(usize::from(*place)));
        place.map_or(1, |(_, weight)| *weight)
    }
}

/// What holds for some values of a key instead of what holds for all.
#[derive(Debug, Clone)]
pub struct Special<T> {
    /// By value of the key.
    pub values: BTreeMap<String, T>,
    /// By tier of the account; a value of its own goes before.
    pub tiers: BTreeMap<String, T>,
}

impl<T> Default for Special<T> {
    fn default() -> Self {
        Self { values: BTreeMap::new(), tiers: BTreeMap::new() }
    }
}

impl<T> Special<T> {
    /// Whether nothing is special.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.tiers.is_empty()
    }

    /// The same with something else for each.
    pub fn map<U>(self, mut to: impl FnMut(T) -> U) -> Special<U> {
        Special {
            values: self.values.into_iter().map(|(value, own)| (value, to(own))).collect(),
            tiers: self.tiers.into_iter().map(|(tier, own)| (tier, to(own))).collect(),
        }
    }

    /// Each of them, with what it holds for: `value X`, `tier X`.
    pub fn iter(&self) -> impl Iterator<Item = (String, &T)> {
        let values = self.values.iter().map(|(value, own)| (format!("value {value:?}"), own));
        values.chain(self.tiers.iter().map(|(tier, own)| (format!("tier {tier}"), own)))
    }

    /// What holds for that value of the key, and that tier of the account.
    pub fn of(&self, value: &str, tier: Option<&str>) -> Option<&T> {
        self.values.get(value).or_else(|| self.tiers.get(tier?))
    }
}

/// An endpoint.
#[derive(Debug, Clone)]
pub struct Api {
    /// Its name.
    pub name: Slug,
    /// How it is called.
    pub method: Method,
    /// Joined to the base URL.
    pub path: Template,
    /// The query, in the order of the file.
    pub query: Vec<Pair>,
    /// What becomes of a query that makes a URL too long; none: it is refused beyond
    /// [`crate::recipe::URL_BYTES_MAX`].
    pub long_query: Option<LongQuery>,
    /// Sent with this api's calls; replaces the platform's of the same name.
    pub headers: Vec<(HeaderName, Template)>,
    /// What a call carries.
    pub body: Option<Body>,
    /// Whose days `{today}` means, where it is not the platform's.
    pub zone: Option<Zones>,
    /// How its calls are authorised: the platform's, its own, or not at all.
    pub auth: Option<Auth>,
    /// Which parameters its fetches carry.
    pub params: Params,
    /// How long a call may take.
    pub timeouts: Timeouts,
    /// How old an object of the same request may be to be used instead of a call, where a fetch does not say it;
    /// none: there is always a call.
    pub fresh_for: Option<Duration>,
    /// What a good answer is.
    pub format: Format,
    /// What its answers say about limits.
    pub rules: Arc<Rules>,
    /// Names the job that a call of it is about.
    pub job: Option<Template>,
    /// How its answers come in pages; nothing: one fetch is one call.
    pub pages: Option<Arc<Pages>>,
    /// What its answers are worth, and how they become what is stored.
    pub answers: Arc<Answers>,
    /// Which days of every account are expected in the store; nothing: none is.
    pub complete: Option<Complete>,
}

/// Which days of every account are expected in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Complete {
    /// The parameter that names the day, or the first day.
    pub param: String,
    /// The one that names the last day, where fetches are of several.
    pub to: Option<String>,
    /// Whether that is the day after the last one.
    pub to_is_excluded: bool,
    /// The first day that is expected.
    pub from: Option<jiff::civil::Date>,
    /// For so many days after a day the provider changes what it says of it; at most 3,660.
    pub restate_days: u32,
    /// What else a fetch of a day carries. A day in it says how days are written.
    pub params: Map<String, Value>,
}

impl Api {
    /// Whether a call may be made again when nobody knows what became of it.
    pub fn may_repeat(&self) -> bool {
        self.answers.idempotent.unwrap_or_else(|| self.method.is_idempotent())
    }

    /// Calls `each` with every template that a call of this api is made from.
    pub fn templates<'a>(&'a self, each: &mut dyn FnMut(&'a Template)) {
        each(&self.path);
        self.job.iter().for_each(&mut *each);
        self.query.iter().for_each(|pair| pair.value.templates(each));
        self.headers.iter().for_each(|(_, template)| each(template));
        if let Some(body) = &self.body {
            body.templates(each);
        }
        self.zone.iter().flat_map(Zones::templates).for_each(each);
    }
}

/// Which parameters the fetches of an api carry.
#[derive(Debug, Clone, Default)]
pub struct Params {
    /// The names that a fetch may carry: those declared, else those that templates name.
    pub names: BTreeSet<String>,
    /// Values for those that a fetch does not carry.
    pub defaults: Map<String, Value>,
}

/// What a good answer is, and what its key ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Anything but HTML; the extension follows the answer's content type.
    Auto,
    /// `json`; an answer that says it is HTML is refused.
    Json,
    /// `jsonl`: JSON values, one on each line.
    Ndjson,
    /// `csv`.
    Csv,
    /// `tsv`.
    Tsv,
    /// `txt`.
    Text,
    /// `html`.
    Html,
    /// `bin`; anything, HTML too.
    Binary,
}
