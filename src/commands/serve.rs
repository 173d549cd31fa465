//! `tollgate serve`: one node on NATS JetStream.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tollgate_actors::clock::Clock;
use tollgate_actors::cluster::{Keeper, KeeperError, Owned, Terms};
use tollgate_actors::codes::Code;
use tollgate_actors::control::{self, Desk, Lettered};
use tollgate_actors::health::{self, BackHealth, Health};
use tollgate_actors::holds::{Holds, Scope};
use tollgate_actors::ledger::LedgerError;
use tollgate_actors::ledger::nats::NatsLedger;
use tollgate_actors::levels::Levels;
use tollgate_actors::nats::accord::{self, Accord};
use tollgate_actors::nats::ask::Who;
use tollgate_actors::nats::budgets::NatsBudgets;
use tollgate_actors::nats::session::{About, Lease, Session, SessionError, SessionFile};
use tollgate_actors::nats::tokens::NatsVault;
use tollgate_actors::nats::{self, Bus, NatsError, ask, holds, notices, service};
use tollgate_actors::node::{Bell, Carrying, Lending, Node, NodeError, Seams, Unknown};
use tollgate_actors::notify::Way;
use tollgate_actors::plan::Plan;
use tollgate_actors::queue::nats::NatsQueue;
use tollgate_actors::queue::{Queue, QueueError};
use tollgate_actors::reload::Reloader;
use tollgate_actors::store::{Store, keep_clean, keep_lines};
use tollgate_actors::telemetry;
use tollgate_actors::{install_tls, supervise};

use super::folder::with_code;
use super::nats::with_rights;
use super::open_store::open_store;
use super::reload::Watched;
use super::session::{Stop, fit_open_files};
use super::stage::{Following, Staging};
use super::{Exit, plan};
use crate::cli::Global;
use crate::http::{self, Counter, Server};
use crate::logs::Logs;
use crate::systemd::Systemd;
use crate::ui::{Progress, say};

/// A server that elects a leader does nothing for some seconds: so long a start is tried again, and how often.
const START_WITHIN: Duration = Duration::from_secs(5 * 60);
const START_AGAIN: Duration = Duration::from_secs(2);
/// What the last words to NATS may take.
const FAREWELL_WITHIN: Duration = Duration::from_secs(2);

pub(crate) fn run(global: &Global) -> anyhow::Result<Exit> {
    let watched = Watched::new(global);
    let Some(plan) = plan(global) else { return Ok(Exit::Usage) };
    if !plan.nats.declared {
        let url = plan.nats.urls.join(", ");
        say(format_args!(
            "tollgate: warning: the configuration has no section [nats]; trying {url}"
        ));
    }
    let logs = Logs::start(global, &plan.log, &Progress::none(), "info")?;
    install_tls();
    supervise::keep_panics();
    let exit = actix_rt::System::new().block_on(serve(plan, watched, logs.levels()));
    let lost = logs.dropped();
    drop(logs);
    if lost > 0 {
        say(format_args!("{lost} log lines were dropped: nobody read them in time"));
    }
    exit
}

async fn serve(mut plan: Plan, watched: Watched, levels: Levels) -> anyhow::Result<Exit> {
    let as_read = plan.clone();
    fit_open_files(&mut plan);
    let plan = Arc::new(plan);
    let staging = Staging::of(&plan)?;
    let stop = Stop::listen()?;
    let watched = watched.listen()?;
    let clock = Clock::new();
    let health = Health::new(clock.clone());
    // Before anything that may take long: who watches this node learns what it waits for.
    let server = http::start(plan.http.as_ref(), Arc::clone(&health))?;
    let systemd = Systemd::start(Arc::clone(&health));
    let file = SessionFile::open(&plan.state()).map_err(with_code)?;
    health.set(health::NATS, "not connected yet");
    let connected = tokio::select! {
        connected = connect(&plan) => connected?,
        () = stop.asked() => return Ok(Exit::Done),
    };
    health.clear(health::NATS);
    let follow = |reloader: Reloader| watched.follow(reloader, levels.clone(), stop.clone());
    let told = levels.clone();
    let with = (staging, told, server.as_ref());
    let exit = work(&plan, as_read, with, &connected, &file, &stop, &clock, &health, follow).await;
    drop(systemd);
    drop(server);
    exit
}

async fn connect(plan: &Plan) -> anyhow::Result<Bus> {
    let bus = Bus::connect(&plan.nats, &plan.node_name, true).await?;
    let setting_up =
        patiently(&bus, async || anyhow::Ok(nats::setup(&bus, &plan.nats, plan.nats.setup).await?));
    for changed in setting_up.await? {
        if changed.change != nats::Change::Kept {
            say(format_args!("tollgate: {changed}"));
        }
    }
    Ok(bus)
}

/// Does a step of the start: again and again while NATS does not answer, as when it goes away later. A right that is
/// missing is told at once.
async fn patiently<T>(bus: &Bus, step: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let until = Instant::now() + START_WITHIN;
    let mut told = false;
    loop {
        match with_rights(bus, Box::pin(step())).await {
            Err(error) if is_away(&error) && Instant::now() < until => {
                if !std::mem::replace(&mut told, true) {
                    telemetry::start_waits(&format!("{error:#}"));
                }
                sleep(START_AGAIN).await;
            }
            done => return done,
        }
    }
}

/// Whether an error of the start is of a server that does not answer now.
fn is_away(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let code = cause.downcast_ref::<NatsError>().map(|error| error.code);
        code == Some(Code::NatsUnreachable)
            || cause.is::<SessionError>()
            || cause.is::<KeeperError>()
            || cause.is::<LedgerError>()
            || cause.downcast_ref::<QueueError>().is_some_and(QueueError::is_away)
    })
}

#[expect(
    clippy::too_many_arguments,
    reason = "it is the end of `serve`, apart only so that each stays readable"
)]
async fn work(
    plan: &Arc<Plan>,
    as_read: Plan,
    (staging, levels, server): (Option<Staging>, Levels, Option<&Server>),
    bus: &Bus,
    file: &SessionFile,
    stop: &Stop,
    clock: &Clock,
    health: &Arc<Health>,
    follow: impl FnOnce(Reloader) -> JoinHandle<()>,
) -> anyhow::Result<Exit> {
    let about = About {
        node: plan.node_name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        started: clock.wall(),
        config: plan.hash.clone(),
    };
    let started = tokio::select! {
        started = Box::pin(start(plan, bus, file, &about, clock)) => started?,
        // What was begun ends with it; the session's key by itself.
        () = stop.asked() => return Ok(Exit::Done),
    };
    let Started { session, mut accord, keeper, owned, held, back, sweep, store, mut node } =
        started;
    health.own(owned.clone());
    node.report_to(health);
    let staging = staging
        .map(|staging| staging.start(store.clone(), owned.clone(), Some(bus.clone())))
        .transpose()?;
    keeper.work_with(node.hands()).await;
    let watching = session.watch(Arc::clone(&back));
    let desk = Desk {
        plan: node.plan(),
        viewer: node.viewer(),
        examiner: node.examiner(),
        intake: node.intake(),
        owned,
        levels,
        lettered: Lettered::default(),
    };
    if let Some(server) = server {
        server.attend(Some(Counter::new(desk.clone(), Some(bus.clone()))));
    }
    let answering = answer(bus, &session, desk.clone());
    let lending = lend(bus, &session, &node);
    let mut beside = beside(plan, bus, (desk, node.bell()), held, sweep, health, back);
    beside.extend([answering, lending]);
    let spill = node.spill();
    let spilling = if plan.collect.spill_over { node.spilling() } else { None };
    let mut carrier = spilling.map(|spilling| spilling.start(bus.clone(), session.id()));
    let reloader = node.reloader_beside(as_read, accord.in_force());
    beside.push(actix_rt::spawn(accord.follow(reloader.clone())));
    beside.push(follow(reloader));
    let died = tokio::select! {
        () = stop.asked() => None,
        error = node.died() => Some(error),
        () = keeper.died() => Some(NodeError::KeeperDied),
        () = session.died() => Some(NodeError::SessionDied),
        () = ended(carrier.as_mut()) => Some(NodeError::CarrierDied),
    };
    if let Some(server) = server {
        server.attend(None);
    }
    // Each partition goes to its next owner as soon as nothing is in flight in it.
    let within = plan.collect.drain;
    // Before others can take its tables over; calls go on meanwhile.
    end_staging(staging).await;
    let ((), broken_off) = tokio::join!(keeper.leave(within), node.drain(within));
    // What became of others' attempts here is theirs to know.
    let _said = timeout(FAREWELL_WITHIN, spill.leave()).await;
    drop(carrier);
    for task in beside {
        task.abort();
    }
    watching.abort();
    // Others wait for the key to end by itself otherwise; not for a store that is away either.
    let ((), _said) = tokio::join!(store.end_lines(), timeout(FAREWELL_WITHIN, session.end()));
    let _flushed = timeout(FAREWELL_WITHIN, bus.client().flush()).await;
    if broken_off > 0 {
        say(format_args!("{broken_off} calls were broken off; they are made again"));
    }
    match died {
        None => Ok(Exit::Done),
        Some(
            error @ (NodeError::ShardDied(_)
            | NodeError::KeeperDied
            | NodeError::SessionDied
            | NodeError::CarrierDied),
        ) => {
            say(format_args!("tollgate: {error}"));
            Ok(Exit::Failed)
        }
        Some(error) => Err(error.into()),
    }
}

/// Waits for the end of what works for as long as the node, if that is at work.
async fn ended(carrier: Option<&mut Carrying>) {
    match carrier {
        Some(carrier) => carrier.died().await,
        None => std::future::pending().await,
    }
}

async fn end_staging(staging: Option<Following>) {
    if let Some(staging) = staging {
        staging.end().await;
    }
}

/// A node and what goes with it.
struct Started<S> {
    session: Arc<Session>,
    accord: Accord,
    keeper: Keeper,
    owned: Owned,
    held: Holds,
    back: Arc<BackHealth>,
    sweep: S,
    store: Store,
    node: Node,
}

async fn start(
    plan: &Arc<Plan>,
    bus: &Bus,
    file: &SessionFile,
    about: &About,
    clock: &Clock,
) -> anyhow::Result<Started<impl Future<Output = ()> + use<>>> {
    let store = open_store(plan).await?;
    let backs = patiently(bus, async || backs(plan, bus, file, about).await).await?;
    let Backs { session, accord, in_force, keeper, owned, held, ledger, queue } = backs;
    let back = Arc::new(BackHealth::default());
    let notices = plan.notify.as_ref().filter(|notify| notify.nats).map(|_| {
        let (way, end) = Way::new("nats");
        // It ends with the way.
        actix_rt::spawn(notices::publish(bus.clone(), end));
        way
    });
    let seams = Seams {
        queue: Arc::new(queue),
        ledger: Arc::new(ledger),
        store: store.clone(),
        vault: Arc::new(NatsVault::new(bus, Arc::clone(&session))),
        holds: held.clone(),
        back: Arc::clone(&back),
        unknown: Unknown::Die,
        owned: owned.clone(),
        lending: Some(Lending {
            session: session.id(),
            wire: Arc::new(NatsBudgets::new(bus, &session)),
        }),
        notices,
        start_within: START_WITHIN,
    };
    let lines = keep_lines(store.clone(), plan);
    let clean = keep_clean(store.clone(), plan);
    let sweep = async {
        tokio::join!(clean, lines);
    };
    let starting =
        async { anyhow::Ok(Node::start(Arc::new(in_force), seams, clock.clone()).await?) };
    let node = with_rights(bus, starting).await?;
    Ok(Started { session, accord, keeper, owned, held, back, sweep, store, node })
}

/// What a node stands on, all of it on NATS.
struct Backs {
    session: Arc<Session>,
    accord: Accord,
    in_force: Plan,
    keeper: Keeper,
    owned: Owned,
    held: Holds,
    ledger: NatsLedger,
    queue: NatsQueue,
}

async fn backs(plan: &Plan, bus: &Bus, file: &SessionFile, about: &About) -> anyhow::Result<Backs> {
    let (owned, lease) = (Owned::nothing(), Lease::of(plan.nats.lease));
    let before = file.before.clone();
    // Whoever hears of the session can read what it goes by.
    accord::publish(bus, plan).await?;
    let session = Session::start_with(bus, file.id, before, about, lease, owned.clone()).await;
    let session = Arc::new(session.context("show this node's session on NATS")?);
    // Nothing is let go, and nothing claimed, before the limits of all nodes are in force on all of them.
    let (accord, in_force) = Accord::reach(bus, Arc::clone(&session), plan).await?;
    let held = Holds::default();
    held.replace(holds::list(bus).await?);
    let ledger = NatsLedger::open(bus, Arc::clone(&session), plan.nats.replicas).await?;
    // What is owned is claimed before it is listed: a node alone has everything at once.
    let keeper = Keeper::join(Arc::clone(&session), owned.clone(), Terms::default()).await;
    let keeper = keeper.context("claim this node's share of the accounts on NATS")?;
    let queue = NatsQueue::open_for(bus, owned.clone()).await?;
    // As the node does first: here it may be tried again.
    queue.postponed().await?;
    Ok(Backs { session, accord, in_force, keeper, owned, held, ledger, queue })
}

/// What goes on beside the node: answering on its socket, following holds, cleaning up, telling how NATS fares.
fn beside(
    plan: &Arc<Plan>,
    bus: &Bus,
    (desk, bell): (Desk, Bell),
    held: Holds,
    sweep: impl Future<Output = ()> + 'static,
    health: &Arc<Health>,
    back: Arc<BackHealth>,
) -> Vec<JoinHandle<()>> {
    let changed = move |scopes: &[Scope]| bell.holds_changed(scopes);
    let mut tasks = vec![
        actix_rt::spawn(holds::follow(bus.clone(), held, changed)),
        actix_rt::spawn(sweep),
        actix_rt::spawn(tell_back(Arc::clone(health), back)),
    ];
    match control::serve(&plan.state(), desk) {
        Ok(serving) => tasks.push(actix_rt::spawn(serving)),
        Err(error) => {
            say(format_args!("tollgate: `status --local` cannot ask this node: {error}"));
        }
    }
    tasks
}

/// Hears what other nodes say of budgets, for as long as it runs.
fn lend(bus: &Bus, session: &Arc<Session>, node: &Node) -> JoinHandle<()> {
    let (budgets, exchanged) = (NatsBudgets::new(bus, session), node.exchanged());
    actix_rt::spawn(async move {
        let Some(exchanged) = exchanged else { return };
        if let Err(error) = budgets.listen(exchanged).await {
            say(format_args!("tollgate: other nodes cannot use budgets of this one: {error}"));
        }
    })
}

/// Answers over NATS for as long as it runs: as a service, and as earlier versions ask.
fn answer(bus: &Bus, session: &Session, desk: Desk) -> JoinHandle<()> {
    let node = desk.plan.get().node_name.clone();
    let who = Who { node, session: session.id().to_string() };
    let older = ask::serve(bus.clone(), who.clone(), desk.clone());
    let serving = service::serve(bus.clone(), who, desk);
    actix_rt::spawn(async move {
        if let Err(error) = tokio::try_join!(older, serving) {
            say(format_args!("tollgate: this node cannot be asked over NATS: {error}"));
        }
    })
}

/// Says whether NATS is there to those who ask whether the node is ready.
async fn tell_back(health: Arc<Health>, back: Arc<BackHealth>) {
    let mut follow = back.follow();
    loop {
        if *follow.borrow_and_update() {
            health.set(health::NATS, "not connected, or this node's session is not confirmed");
        } else {
            health.clear(health::NATS);
        }
        if follow.changed().await.is_err() {
            return;
        }
    }
}
