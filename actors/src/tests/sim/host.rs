//! A node's process: its tasks in a set of their own, which is not polled while the process is stopped and
//! dropped when it dies.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::nats::Link;

/// One life of a node's process.
#[derive(Debug)]
pub(super) struct Life {
    /// Which node, from 0.
    pub(super) node: usize,
    /// Which session it has.
    pub(super) session: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    is_dead: bool,
    is_stopped: bool,
    is_cut_off: bool,
    /// Dies after so many more steps.
    steps_left: Option<u32>,
    host: Option<Waker>,
    link: Link,
    /// Who follows the link, each by a channel of its own: a channel wakes several in no order.
    links: Vec<watch::Sender<Link>>,
}

impl Life {
    pub(super) fn new(node: usize, session: u64) -> Arc<Self> {
        let link = Link { up: true, since: Instant::now(), times: 1 };
        let state = State {
            is_dead: false,
            is_stopped: false,
            is_cut_off: false,
            steps_left: None,
            host: None,
            link,
            links: Vec::new(),
        };
        Arc::new(Self { node, session, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let host = state.host.take();
        drop(state);
        if let Some(host) = host {
            host.wake();
        }
    }

    /// The process dies: nothing it does from now on has an effect.
    pub(super) fn die(&self) {
        self.change(|state| state.is_dead = true);
    }

    /// It dies after so many more steps: a step is a request, an answer, or a fault point.
    pub(super) fn die_after(&self, steps: u32) {
        self.state().steps_left = Some(steps);
    }

    /// As by SIGSTOP and SIGCONT.
    pub(super) fn stop(&self, is_stopped: bool) {
        self.change(|state| state.is_stopped = is_stopped);
    }

    /// No message passes between it and the server.
    pub(super) fn cut_off(&self, is_cut_off: bool) {
        self.state().is_cut_off = is_cut_off;
    }

    /// Its client notices that the connection is gone, or makes it anew.
    pub(super) fn connect(&self, up: bool) {
        let mut state = self.state();
        if state.link.up != up {
            let times = state.link.times + u64::from(up);
            state.link = Link { up, since: Instant::now(), times };
            let link = state.link;
            state.links.iter().for_each(|follower| _ = follower.send_replace(link));
        }
    }

    /// Its connection to the server.
    pub(super) fn link(&self) -> watch::Receiver<Link> {
        let mut state = self.state();
        state.links.retain(|follower| !follower.is_closed());
        let (follower, link) = watch::channel(state.link);
        state.links.push(follower);
        link
    }

    /// How its connection is at this moment.
    pub(super) fn link_now(&self) -> Link {
        self.state().link
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state().is_dead
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.state().is_stopped
    }

    pub(super) fn is_cut_off(&self) -> bool {
        self.state().is_cut_off
    }

    /// One step of its process; whether it is alive behind it.
    pub(super) fn step(&self) -> bool {
        let mut state = self.state();
        if let Some(left) = &mut state.steps_left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                drop(state);
                self.die();
                return false;
            }
        }
        !state.is_dead
    }
}

/// Runs the tasks of a process for as long as it lives.
pub(super) struct Host {
    pub(super) life: Arc<Life>,
    pub(super) tasks: Option<LocalSet>,
}

impl Future for Host {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let host = &mut *self;
        let is_stopped = {
            let mut state = host.life.state();
            state.host = Some(context.waker().clone());
            state.is_stopped
        };
        if !host.life.is_dead() {
            if is_stopped {
                return Poll::Pending;
            }
            if let Some(tasks) = &mut host.tasks {
                super::RUNS.with(|runs| *runs.borrow_mut() = Some(Arc::clone(&host.life)));
                // The tasks end with the process, not before.
                let _all_done = Pin::new(tasks).poll(context).is_ready();
                super::RUNS.with(|runs| *runs.borrow_mut() = None);
            }
        }
        if host.life.is_dead() {
            host.tasks = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }
}
