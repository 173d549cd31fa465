//! Waiting for what signs calls.

use tollgate_gate::At;

use super::Throttle;
use super::letting::Wait;
use crate::shard::Wake;
use crate::times::Cause;

impl Throttle {
    /// Whether what signs the calls of a lane has to be waited for: before a permit is decided, for none is to lapse
    /// over it.
    pub(super) fn waits_for_auth(&self, place: usize, now: At, wait: &mut Wait) -> bool {
        let api = self.platform.apis.get(usize::from(self.lanes[place].api));
        let Some(auth) = api.and_then(|api| api.auth.as_ref()) else { return false };
        let wake = || -> crate::auth::Wake {
            let (shard, ix, key) = (self.shard.me().clone(), self.ix, self.key.clone());
            Box::new(move || shard.do_send(Wake { ix, key: key.clone() }))
        };
        let Some(waits) = self.shard.auth.ready(auth, &self.key, wake) else { return false };
        let cause = (self.lanes[place].api, Cause::Signing);
        match waits.until {
            Some(until) if until > now => wait.until(until, until, cause, || waits.why.into()),
            _ => wait.for_event(cause, &waits.why),
        }
        true
    }
}
