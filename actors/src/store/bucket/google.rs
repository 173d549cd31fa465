//! Google Cloud Storage, by its XML API (<https://cloud.google.com/storage/docs/xml-api/overview>).

use std::sync::Arc;

use object_store::StaticCredentialProvider;
use object_store::client::CredentialProvider;
use object_store::gcp::{GcpCredential, GcpCredentialProvider, GoogleCloudStorageBuilder};
use secrecy::ExposeSecret;

use super::client::PerThread;
use super::leftovers::Lister;
use super::renew::{self, Renewal, Renewed};
use super::{Opened, Setting};
use crate::plan::GoogleCredentials;

const ENDPOINT: &str = "https://storage.googleapis.com";

pub(super) fn open(
    setting: &Setting<'_>,
    credentials: &GoogleCredentials,
) -> object_store::Result<Opened> {
    let endpoint =
        setting.plan.endpoint.as_ref().map_or(ENDPOINT, |url| url.as_str().trim_end_matches('/'));
    let mut renewal = None;
    let provider: GcpCredentialProvider = if let GoogleCredentials::Token(token) = credentials {
        let bearer = token.expose_secret().to_owned();
        Arc::new(StaticCredentialProvider::new(GcpCredential { bearer }))
    } else {
        let renewed = renewed(setting, credentials)?;
        renewal = Some(Arc::clone(&renewed) as Arc<dyn Renewal>);
        renewed
    };
    let store = GoogleCloudStorageBuilder::new()
        .with_bucket_name(&setting.plan.bucket)
        .with_base_url(endpoint)
        .with_client_options(setting.options.clone())
        .with_http_connector(setting.connector.clone())
        .with_retry(setting.retries.clone())
        .with_credentials(Arc::clone(&provider))
        .build()?;
    let url = format!("{endpoint}/{}", setting.plan.bucket);
    Ok(Opened { remote: Arc::new(store), lister: Lister::Google(provider), renewal, url })
}

fn renewed(
    setting: &Setting<'_>,
    credentials: &GoogleCredentials,
) -> object_store::Result<Arc<Renewed<GcpCredential>>> {
    let (bucket, credentials) = (setting.plan.bucket.clone(), credentials.clone());
    let connector = PerThread::apart();
    let asking = setting.asking.clone();
    Renewed::new(move || {
        let mut builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name(&bucket)
            .with_client_options(asking.clone())
            .with_http_connector(connector.again())
            .with_retry(renew::retries());
        match &credentials {
            GoogleCredentials::ServiceAccount(key) => {
                builder = builder.with_service_account_key(key.expose_secret());
            }
            // Read anew each time: it may have been replaced.
            GoogleCredentials::File(path) => {
                builder = builder.with_application_credentials(path.to_string_lossy());
            }
            GoogleCredentials::Token(_) | GoogleCredentials::Ambient => {}
        }
        let provider = Arc::clone(builder.build()?.credentials());
        Ok(provider as Arc<dyn CredentialProvider<Credential = GcpCredential>>)
    })
}
