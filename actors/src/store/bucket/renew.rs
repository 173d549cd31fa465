//! Credentials that end while the process runs.
//!
//! `object_store` asks for new ones some minutes before the old ones end, and keeps them in between. This adds what
//! that leaves open: the service that gives them may be away for a while, which the old ones outlast; and they may
//! end earlier than was said, because they were revoked or a clock is off. Then the store refuses them, and a write
//! that is refused for that is made once more with new ones. So no write fails for a session that ended within it.
//! One request at a time asks; others use the last ones meanwhile, or wait and hear what it was told.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use object_store::client::CredentialProvider;
use object_store::{BackoffConfig, RetryConfig};
use tokio::time::Instant;

use crate::store::error::{Expired, expired};

/// How long the last ones are used when new ones cannot be had. `object_store` asks 5 min before the end
/// (Google: 4), so the last that it gave are good for nearly as long.
const KEPT: Duration = Duration::from_secs(220);
/// After a failure to get new ones, the last are used for so long before it is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// Ones that were given within this time are not blamed for a refusal: others would fare no better, and whoever
/// gives them is not asked for more with each request.
const FRESH: Duration = Duration::from_secs(1);
/// The same where the answer is also what a right that is missing looks like.
const TRUSTED: Duration = Duration::from_secs(60);

/// How often and how long a service is asked for credentials: requests wait for it.
pub(super) fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
        },
        max_retries: 4,
        retry_timeout: Duration::from_secs(5),
    }
}

/// Longest wait for an answer of the service.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(5);

type Provider<C> = Arc<dyn CredentialProvider<Credential = C>>;
type Make<C> = Box<dyn Fn() -> object_store::Result<Provider<C>> + Send + Sync>;

tokio::task_local! {
    /// The number of the credentials that the call of [`with_new`] went out with last; 0 before it has asked for
    /// any. `object_store` asks for them in the same task.
    static USED: Cell<u64>;
}

/// Credentials of one bucket.
pub(super) struct Renewed<C> {
    make: Make<C>,
    held: Mutex<Held<C>>,
    /// Held by the one that asks for credentials. A provider of `object_store` lets one request in at a time too, but
    /// each that has waited asks again when the one before has failed.
    asking: tokio::sync::Mutex<()>,
}

struct Held<C> {
    provider: Provider<C>,
    /// What was given last.
    last: Option<Last<C>>,
    /// When and how it last failed, if it has not given any since.
    failed: Option<(Instant, Arc<object_store::Error>)>,
    /// The store has refused `last`, and the provider was made anew and has not given any yet.
    refused: Option<Expired>,
}

struct Last<C> {
    credential: Arc<C>,
    /// 1 for the first, and one more for each other.
    number: u64,
    /// When it was given first, and when last.
    since: Instant,
    at: Instant,
}

impl<C> fmt::Debug for Renewed<C> {
    /// Those of Google and Azure would show.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Renewed")
    }
}

impl<C: Send + Sync + 'static> Renewed<C> {
    /// Makes the provider, and whenever what it gives is refused makes another.
    pub(super) fn new(
        make: impl Fn() -> object_store::Result<Provider<C>> + Send + Sync + 'static,
    ) -> object_store::Result<Arc<Self>> {
        let held = Held { provider: make()?, last: None, failed: None, refused: None };
        let (held, asking) = (Mutex::new(held), tokio::sync::Mutex::default());
        Ok(Arc::new(Self { make: Box::new(make), held, asking }))
    }

    fn held(&self) -> MutexGuard<'_, Held<C>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn get(&self) -> object_store::Result<Arc<C>> {
        let (credential, number) = self.ask().await?;
        // Nobody needs to know outside of `with_new`.
        USED.try_with(|used| used.set(number)).ok();
        Ok(credential)
    }

    async fn ask(&self) -> object_store::Result<(Arc<C>, u64)> {
        if let Some(last) = self.held().outlasting() {
            return Ok(last);
        }
        let _asking = if let Ok(asking) = self.asking.try_lock() {
            asking
        } else {
            let begun = Instant::now();
            if let Some(last) = self.held().meanwhile() {
                return Ok(last);
            }
            let asking = self.asking.lock().await;
            let held = self.held();
            // Whoever asked meanwhile asked for this one too.
            if let Some(last) = held.outlasting().or_else(|| held.given_since(begun)) {
                return Ok(last);
            }
            if let Some((at, error)) = &held.failed
                && *at >= begun
            {
                return Err(Shared::of(error));
            }
            drop(held);
            asking
        };
        let provider = Arc::clone(&self.held().provider);
        let given = provider.get_credential().await;
        let mut held = self.held();
        if !Arc::ptr_eq(&held.provider, &provider) {
            // Made anew meanwhile. What the former says is of no use for later, and if it is refused, the next are
            // asked for already.
            let number = held.last.as_ref().map_or(0, |last| last.number);
            return given.map(|credential| (credential, number));
        }
        match given {
            Ok(credential) => Ok(held.give(credential)),
            Err(error) => {
                let error = Arc::new(error);
                held.failed = Some((Instant::now(), Arc::clone(&error)));
                held.kept().ok_or_else(|| Shared::of(&error))
            }
        }
    }
}

impl<C> Held<C> {
    /// The provider has given it.
    fn give(&mut self, credential: Arc<C>) -> (Arc<C>, u64) {
        let now = Instant::now();
        let (mut number, mut since) = (1, now);
        if let Some(last) = &self.last {
            let same = Arc::ptr_eq(&last.credential, &credential);
            (number, since) = if same { (last.number, last.since) } else { (last.number + 1, now) };
        }
        self.last = Some(Last { credential: Arc::clone(&credential), number, since, at: now });
        (self.failed, self.refused) = (None, None);
        (credential, number)
    }

    /// The last, while they may still be good.
    fn kept(&self) -> Option<(Arc<C>, u64)> {
        let last = self.last.as_ref()?;
        // Those that have ended by the store's own word are of no use: that others cannot be had passes, a refusal
        // would not.
        let good = last.at.elapsed() < KEPT && self.refused != Some(Expired::Said);
        good.then(|| (Arc::clone(&last.credential), last.number))
    }

    /// The last, for whoever comes while somebody asks whether there are others.
    fn meanwhile(&self) -> Option<(Arc<C>, u64)> {
        if self.refused.is_none() { self.kept() } else { None }
    }

    /// The last, if they came after a time.
    fn given_since(&self, begun: Instant) -> Option<(Arc<C>, u64)> {
        let fresh = self.last.as_ref().is_some_and(|last| last.at >= begun);
        if fresh { self.meanwhile() } else { None }
    }

    /// The last, where others were asked for in vain not long ago.
    fn outlasting(&self) -> Option<(Arc<C>, u64)> {
        let (at, _) = self.failed.as_ref()?;
        if at.elapsed() < AGAIN { self.kept() } else { None }
    }
}

/// One failure that is told to several.
#[derive(Debug)]
struct Shared(Arc<object_store::Error>);

impl Shared {
    fn of(error: &Arc<object_store::Error>) -> object_store::Error {
        let source = Box::new(Self(Arc::clone(error)));
        object_store::Error::Generic { store: "credentials", source }
    }
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Shared {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl<C: Send + Sync + 'static> CredentialProvider for Renewed<C> {
    type Credential = C;

    fn get_credential<'s, 'f>(
        &'s self,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<C>>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(self.get())
    }
}

/// What can be thrown away and asked for anew.
pub(super) trait Renewal: fmt::Debug + Send + Sync {
    /// The store has refused the credentials of this number: if no others have come since, the next request asks
    /// for some. Whether the request is worth making again.
    fn expire(&self, used: u64, why: Expired) -> bool;
}

impl<C: Send + Sync + 'static> Renewal for Renewed<C> {
    fn expire(&self, used: u64, why: Expired) -> bool {
        let mut held = self.held();
        // None were given, so it was not for them.
        let Some(last) = &held.last else { return false };
        if used != last.number || held.refused.is_some() {
            return true;
        }
        let trusted = if why == Expired::Perhaps { TRUSTED } else { FRESH };
        if last.since.elapsed() < trusted {
            return false;
        }
        // Files are read for it; and what cannot be made leaves what there is.
        let Ok(provider) = (self.make)() else { return false };
        (held.provider, held.failed, held.refused) = (provider, None, Some(why));
        true
    }
}

/// Makes a request, and once more with new credentials if it was refused for the old ones.
pub(super) async fn with_new<T, F>(
    renewal: Option<&Arc<dyn Renewal>>,
    call: impl Fn() -> F,
) -> object_store::Result<T>
where
    F: Future<Output = object_store::Result<T>>,
{
    with_new_if(renewal, |error| expired(error), call).await
}

/// What comes of a call, and the number of the credentials that it went out with last.
pub(super) async fn noting<T>(call: impl Future<Output = T>) -> (T, u64) {
    USED.scope(Cell::new(0), async { (call.await, USED.with(Cell::get)) }).await
}

/// The same as [`with_new`] for what tells in another way that they have ended.
pub(super) async fn with_new_if<T, E, F>(
    renewal: Option<&Arc<dyn Renewal>>,
    expired: impl Fn(&E) -> Option<Expired>,
    call: impl Fn() -> F,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let Some(renewal) = renewal else { return call().await };
    let (first, used) = noting(call()).await;
    if let Err(error) = &first
        && let Some(why) = expired(error)
        && renewal.expire(used, why)
    {
        return call().await;
    }
    first
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use futures_util::future::join_all;

    use super::*;

    /// Gives numbers, each to one request, and takes its time.
    #[derive(Debug, Default)]
    struct Service {
        away: AtomicBool,
        given: AtomicU64,
        asked: AtomicU64,
    }

    impl Service {
        fn credentials(self: &Arc<Self>) -> Arc<Renewed<u64>> {
            let service = Arc::clone(self);
            Renewed::new(move || Ok(Arc::clone(&service) as Provider<u64>)).unwrap()
        }

        fn seen(&self) -> (u64, u64) {
            (self.asked.load(Ordering::Relaxed), self.given.load(Ordering::Relaxed))
        }
    }

    impl CredentialProvider for Service {
        type Credential = u64;

        fn get_credential<'s, 'f>(
            &'s self,
        ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<u64>>> + Send + 'f>>
        where
            's: 'f,
            Self: 'f,
        {
            Box::pin(async move {
                self.asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(ANSWER_MAX).await;
                if self.away.load(Ordering::Relaxed) {
                    let source = "nobody answers".into();
                    return Err(object_store::Error::Generic { store: "service", source });
                }
                Ok(Arc::new(self.given.fetch_add(1, Ordering::Relaxed) + 1))
            })
        }
    }

    /// A request that the store takes if it bears a credential from this on.
    async fn request(credentials: &Arc<Renewed<u64>>, good: u64, why: Expired) -> Option<bool> {
        let renewal = Arc::clone(credentials) as Arc<dyn Renewal>;
        let call = || async {
            let credential = credentials.get().await.map_err(|_| None)?;
            if *credential >= good { Ok(()) } else { Err(Some(why)) }
        };
        match with_new_if(Some(&renewal), |why: &Option<Expired>| *why, call).await {
            Ok(()) => Some(true),
            Err(Some(_)) => Some(false),
            Err(None) => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_at_once_ask_once_whatever_comes_of_it() {
        let service = Arc::<Service>::default();
        let credentials = service.credentials();
        service.away.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        let all = join_all((0..50).map(|_| request(&credentials, 1, Expired::Said))).await;
        assert_eq!((all, begun.elapsed()), (vec![None; 50], ANSWER_MAX));
        service.away.store(false, Ordering::Relaxed);
        let all = join_all((0..50).map(|_| request(&credentials, 1, Expired::Said))).await;
        assert_eq!(all, [Some(true); 50]);
        assert_eq!((begun.elapsed(), service.seen()), (2 * ANSWER_MAX, (2, 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_are_used_while_somebody_asks_in_vain() {
        let service = Arc::<Service>::default();
        let credentials = service.credentials();
        assert_eq!(request(&credentials, 1, Expired::Said).await, Some(true));
        service.away.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        let all = join_all((0..50).map(|_| request(&credentials, 1, Expired::Said))).await;
        assert_eq!((all, begun.elapsed()), (vec![Some(true); 50], ANSWER_MAX));
        assert_eq!(service.seen(), (2, 1));
        // Not asked again for a while, and not used for ever.
        assert_eq!(request(&credentials, 1, Expired::Said).await, Some(true));
        assert_eq!(service.seen(), (2, 1));
        tokio::time::sleep(KEPT).await;
        assert_eq!(request(&credentials, 1, Expired::Said).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_throws_away_only_what_was_refused() {
        let service = Arc::<Service>::default();
        let credentials = service.credentials();
        assert_eq!(request(&credentials, 1, Expired::Said).await, Some(true));
        // Too young for it.
        assert!(!credentials.expire(1, Expired::Said));
        tokio::time::sleep(FRESH).await;
        assert!(!credentials.expire(1, Expired::Perhaps));
        assert!(credentials.expire(1, Expired::Said));
        // Others are on their way, and come: an answer to the former one says nothing of them.
        assert!(credentials.expire(1, Expired::Said));
        assert_eq!(request(&credentials, 2, Expired::Said).await, Some(true));
        let given = service.seen().1;
        tokio::time::sleep(TRUSTED).await;
        assert!(credentials.expire(1, Expired::Said));
        assert_eq!(credentials.held().refused, None);
        assert_eq!(service.seen().1, given);
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_good_is_kept_until_there_are_others() {
        for (why, kept) in [(Expired::Perhaps, Some(true)), (Expired::Said, None)] {
            let service = Arc::<Service>::default();
            let credentials = service.credentials();
            assert_eq!(request(&credentials, 1, why).await, Some(true));
            service.away.store(true, Ordering::Relaxed);
            tokio::time::sleep(TRUSTED).await;
            assert!(credentials.expire(1, why));
            assert_eq!(request(&credentials, 1, why).await, kept, "{why:?}");
        }
    }
}
