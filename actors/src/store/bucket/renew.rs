//! Credentials that end while the process runs.
//!
//! `object_store` asks for new ones some minutes before the old ones end, and keeps them in between. This adds what
//! that leaves open: the service that gives them may be away for a while, which the old ones outlast; and they may
//! end earlier than was said, because they were revoked or a clock is off. Then the store refuses them, and a write
//! that is refused for that is made once more with new ones. So no write fails for a session that ended within it.

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
/// Who was refused with ones that were made anew within this time has not used them yet.
const FRESH: Duration = Duration::from_secs(1);
/// Where the store did not say that it is for them, ones made within this time are not blamed: it may be a right
/// that is missing, and whoever gives credentials is not asked all the time for that.
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

/// Credentials of one bucket.
pub(super) struct Renewed<C> {
    make: Make<C>,
    held: Mutex<Held<C>>,
}

struct Held<C> {
    provider: Provider<C>,
    /// When the provider was made.
    made: Instant,
    /// What it gave last, and when.
    last: Option<(Arc<C>, Instant)>,
    /// When it last failed, if it has not given any since.
    failed: Option<Instant>,
}

impl<C> std::fmt::Debug for Renewed<C> {
    /// Those of Google and Azure would show.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Renewed")
    }
}

impl<C: Send + Sync + 'static> Renewed<C> {
    /// Makes the provider, and whenever what it gives is refused makes another.
    pub(super) fn new(
        make: impl Fn() -> object_store::Result<Provider<C>> + Send + Sync + 'static,
    ) -> object_store::Result<Arc<Self>> {
        let provider = make()?;
        let held = Mutex::new(Held { provider, made: Instant::now(), last: None, failed: None });
        Ok(Arc::new(Self { make: Box::new(make), held }))
    }

    fn held(&self) -> MutexGuard<'_, Held<C>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn get(&self) -> object_store::Result<Arc<C>> {
        let provider = {
            let held = self.held();
            if held.failed.is_some_and(|at| at.elapsed() < AGAIN)
                && let Some(last) = held.kept()
            {
                return Ok(last);
            }
            Arc::clone(&held.provider)
        };
        let given = provider.get_credential().await;
        let mut held = self.held();
        if !Arc::ptr_eq(&held.provider, &provider) {
            // Made anew meanwhile: what the former says is of no use for later.
            return given;
        }
        match given {
            Ok(credential) => {
                held.last = Some((Arc::clone(&credential), Instant::now()));
                held.failed = None;
                Ok(credential)
            }
            Err(error) => {
                held.failed = Some(Instant::now());
                held.kept().ok_or(error)
            }
        }
    }
}

impl<C> Held<C> {
    fn kept(&self) -> Option<Arc<C>> {
        let (last, at) = self.last.as_ref()?;
        (at.elapsed() < KEPT).then(|| Arc::clone(last))
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
pub(super) trait Renewal: std::fmt::Debug + Send + Sync {
    /// The store refuses them: the next request asks for others. Whether it is worth one.
    fn expire(&self, why: Expired) -> bool;
}

impl<C: Send + Sync + 'static> Renewal for Renewed<C> {
    fn expire(&self, why: Expired) -> bool {
        let age = self.held().made.elapsed();
        match why {
            Expired::Said if age < FRESH => return true,
            Expired::Perhaps if age < TRUSTED => return false,
            Expired::Said | Expired::Perhaps => {}
        }
        // Files are read for it; and what cannot be made leaves what there is.
        let Ok(provider) = (self.make)() else { return false };
        *self.held() = Held { provider, made: Instant::now(), last: None, failed: None };
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
    let first = call().await;
    if let (Err(error), Some(renewal)) = (&first, renewal)
        && let Some(why) = expired(error)
        && renewal.expire(why)
    {
        return call().await;
    }
    first
}
