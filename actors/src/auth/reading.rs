//! Reading secrets: when they are first needed, when what was made of them is refused, and when they change.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::secret::{Missing, Reference, Secret, Source, Text};
use super::{Credential, Kind, State};
use crate::codes::Code;
use crate::ids::Account;
use crate::plan::InForce;
use crate::telemetry;

/// Between two looks at whether files of secrets have changed.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Programs that print secrets are run so often while a credential is refused: they may print another by now.
const RUN_EVERY: Duration = Duration::from_secs(60);
/// Most programs of a credential that are run then.
const PROGRAMS_MAX: usize = 16;

/// What the secrets of an account are now.
pub(super) fn texts(credential: &Credential, account: &Account) -> Vec<Text> {
    let references = credential.references();
    references.iter().filter_map(|reference| reference.get(account).ok()).collect()
}

/// Reads what was not read yet; `again`: also what may have changed.
pub(super) async fn read_secrets(
    credential: &Credential,
    account: &Account,
    again: bool,
) -> Result<(), String> {
    for reference in credential.references() {
        let secret = match reference.secret(account) {
            Ok(secret) => secret,
            Err(Missing::None(reason)) => return Err(reason),
            Err(Missing::Unread) => continue,
        };
        let is_new = secret.get().is_none();
        if !is_new && !again {
            continue;
        }
        match read_one(&secret).await {
            // One that all accounts have: what failed for others is mended too.
            Ok(true) if !is_new && !reference.is_per_account() => has_changed(credential),
            Ok(true) => telemetry::secret_read(&credential.shown),
            Ok(false) => {}
            // What was read before goes on being used.
            Err(reason) if secret.get().is_some() => {
                telemetry::secret_unreadable(&credential.shown, &reason);
            }
            Err(reason) => return Err(reason),
        }
    }
    Ok(())
}

/// Whether a secret is another one now.
async fn read_one(secret: &Secret) -> Result<bool, String> {
    match secret.source() {
        Source::Env(_) => Ok(false),
        Source::File(_) => {
            let file = secret.clone();
            let read = spawn_blocking(move || file.read_file()).await;
            read.unwrap_or_else(|error| Err(error.to_string()))
        }
        Source::Command(_) => secret.run().await,
    }
}

/// A secret is another one: what failed with the one before may be tried again now.
fn has_changed(credential: &Credential) {
    telemetry::secret_read(&credential.shown);
    let mut states = credential.live.lock();
    let mut waiting = Vec::new();
    for state in states.values_mut() {
        state.problem = None;
        // Those of its server are as good as before; one of its own is signed with the old key.
        if matches!(credential.kind, Kind::Jwt(..))
            && let Some(token) = state.token.take()
        {
            state.before = Some(token);
        }
        waiting.extend(std::mem::take(&mut state.waiting).into_values());
    }
    drop(states);
    for wake in waiting {
        wake();
    }
}

/// Reads files of secrets again when they have changed.
pub(super) async fn watch(plan: InForce) {
    let mut told: HashSet<String> = HashSet::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        for credential in credentials(&plan) {
            let files: Vec<Secret> = credential
                .references()
                .iter()
                .flat_map(|reference| reference.all())
                .filter(|secret| matches!(secret.source(), Source::File(_)))
                // What was never read is not in use.
                .filter(|secret| secret.get().is_some())
                .collect();
            if files.is_empty() {
                continue;
            }
            let read = move || {
                files.iter().fold((false, None), |(changed, wrong), file| match file.read_file() {
                    Ok(new) => (changed | new, wrong),
                    Err(reason) => (changed, Some(reason)),
                })
            };
            let Ok((changed, wrong)) = spawn_blocking(read).await else { continue };
            match wrong {
                // Once, until it can be read again.
                Some(reason) if told.insert(credential.shown.clone()) => {
                    telemetry::secret_unreadable(&credential.shown, &reason);
                }
                Some(_) => {}
                None => _ = told.remove(&credential.shown),
            }
            if changed {
                has_changed(&credential);
            }
        }
    }
}

/// Runs programs again whose secrets are refused.
pub(super) async fn watch_programs(plan: InForce) {
    loop {
        tokio::time::sleep(RUN_EVERY).await;
        for credential in credentials(&plan) {
            run_if_refused(&credential).await;
        }
    }
}

/// Runs the programs of a credential again that its server refuses.
pub(super) async fn run_if_refused(credential: &Credential) {
    let refused: Vec<Option<Account>> = {
        let states = credential.live.lock();
        let is_refused = |state: &State| {
            state.problem.as_ref().is_some_and(|problem| problem.code == Code::TokenRefused)
        };
        states.iter().filter(|(_, s)| is_refused(s)).map(|(part, _)| part.clone()).collect()
    };
    let mut changed = false;
    for secret in programs(credential, &refused) {
        match secret.run().await {
            Ok(new) => changed |= new,
            Err(reason) => telemetry::secret_unreadable(&credential.shown, &reason),
        }
    }
    if changed {
        has_changed(credential);
    }
}

/// The programs that print secrets of these parts of a credential, each once, as many as are run in a turn: those
/// that were run longest ago, so that each has its turn.
fn programs(credential: &Credential, parts: &[Option<Account>]) -> Vec<Secret> {
    let mut known = HashSet::new();
    let mut all: Vec<(Option<Instant>, Secret)> = Vec::new();
    for reference in credential.references() {
        let own = |part: &Option<Account>| match (reference, part) {
            (Reference::One(secret), _) => Some(secret.clone()),
            (_, Some(account)) => reference.secret(account).ok(),
            (_, None) => None,
        };
        for secret in parts.iter().filter_map(own) {
            if matches!(secret.source(), Source::Command(_)) && known.insert(secret.address()) {
                all.push((secret.ran(), secret));
            }
        }
    }
    all.sort_by_key(|(ran, _)| *ran);
    all.into_iter().take(PROGRAMS_MAX).map(|(_, secret)| secret).collect()
}

/// Every credential of the plan in force, each once.
fn credentials(plan: &InForce) -> Vec<Arc<Credential>> {
    let plan = plan.get();
    let mut all: Vec<Arc<Credential>> = Vec::new();
    for platform in plan.platforms.values() {
        let own = platform.apis.iter().filter_map(|api| api.auth.as_ref());
        for credential in platform.auth.iter().chain(own).flat_map(|auth| &auth.pool) {
            if !all.iter().any(|known| Arc::ptr_eq(known, credential)) {
                all.push(Arc::clone(credential));
            }
        }
    }
    all
}
