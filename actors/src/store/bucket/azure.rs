//! Azure Blob Storage (<https://learn.microsoft.com/en-us/rest/api/storageservices/blob-service-rest-api>).

use std::sync::Arc;

use object_store::azure::{AzureConfigKey, AzureCredential, MicrosoftAzureBuilder};
use object_store::client::CredentialProvider;
use secrecy::ExposeSecret;

use super::client::PerThread;
use super::leftovers::Lister;
use super::renew::{self, Renewal, Renewed};
use super::{Opened, Setting};
use crate::plan::AzureCredentials;

pub(super) fn open(
    setting: &Setting<'_>,
    account: &str,
    credentials: &AzureCredentials,
) -> object_store::Result<Opened> {
    let endpoint = setting.plan.endpoint.as_ref().map_or_else(
        || format!("https://{account}.blob.core.windows.net"),
        |url| url.as_str().trim_end_matches('/').to_owned(),
    );
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(account)
        .with_container_name(&setting.plan.bucket)
        .with_endpoint(endpoint.clone())
        .with_client_options(setting.options.clone())
        .with_http_connector(setting.connector.clone())
        .with_retry(setting.retries.clone());
    let mut renewal = None;
    match credentials {
        AzureCredentials::Key(key) => builder = builder.with_access_key(key.expose_secret()),
        AzureCredentials::Sas(signature) => {
            let given = signature.expose_secret();
            builder = builder.with_config(AzureConfigKey::SasKey, given);
        }
        AzureCredentials::Principal { .. } | AzureCredentials::Ambient(_) => {
            let renewed = renewed(setting, account, credentials)?;
            renewal = Some(Arc::clone(&renewed) as Arc<dyn Renewal>);
            builder = builder.with_credentials(renewed);
        }
    }
    let url = format!("{endpoint}/{}", setting.plan.bucket);
    Ok(Opened { remote: Arc::new(builder.build()?), lister: Lister::Nobody, renewal, url })
}

fn renewed(
    setting: &Setting<'_>,
    account: &str,
    credentials: &AzureCredentials,
) -> object_store::Result<Arc<Renewed<AzureCredential>>> {
    let mut variables = Vec::new();
    if let AzureCredentials::Ambient(given) = credentials {
        for (name, value) in given {
            let key: AzureConfigKey = name.to_ascii_lowercase().parse()?;
            variables.push((key, value.clone()));
        }
    }
    let (container, account) = (setting.plan.bucket.clone(), account.to_owned());
    let credentials = credentials.clone();
    let connector = PerThread::apart();
    let asking = setting.asking.clone();
    Renewed::new(move || {
        let mut builder = MicrosoftAzureBuilder::new()
            .with_account(&account)
            .with_container_name(&container)
            .with_client_options(asking.clone())
            .with_http_connector(connector.again())
            .with_retry(renew::retries());
        if let AzureCredentials::Principal { tenant, client, secret, authority } = &credentials {
            builder =
                builder.with_client_secret_authorization(client, secret.expose_secret(), tenant);
            if let Some(authority) = authority {
                builder = builder.with_authority_host(authority);
            }
        }
        for (key, value) in &variables {
            builder = builder.with_config(*key, value);
        }
        let provider = Arc::clone(builder.build()?.credentials());
        Ok(provider as Arc<dyn CredentialProvider<Credential = AzureCredential>>)
    })
}
