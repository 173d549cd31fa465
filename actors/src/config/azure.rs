//! The keys of `[store]` that a container of Azure has.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::bucket::set;
use super::secret::secret;
use super::section::Section;
use crate::codes::Code;
use crate::ids::preview;
use crate::plan::{AzureCredentials, Provider};

pub(super) const KEYS: &[&str] =
    &["account", "account_key", "sas_token", "tenant_id", "client_id", "client_secret"];
pub(super) const KEYS_HINT: &str = "one of account_key = \"env:NAME\", sas_token = \"env:NAME\", or tenant_id, client_id and client_secret";

/// What Azure's own tools call them
/// (<https://learn.microsoft.com/en-us/cli/azure/storage#environment-variables>).
const ACCOUNT: &[&str] = &["AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"];
const KEY: &[&str] = &["AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"];
const SAS: &[&str] = &["AZURE_STORAGE_SAS_TOKEN"];

/// Where another cloud than the public one signs in
/// (<https://learn.microsoft.com/en-us/dotnet/api/azure.identity.azureauthorityhosts>).
const AUTHORITY: &str = "AZURE_AUTHORITY_HOST";

/// Variables of the environment that say who this machine is: of a workload in Kubernetes, and of an App Service
/// (<https://learn.microsoft.com/en-us/azure/aks/workload-identity-overview>,
/// <https://learn.microsoft.com/en-us/azure/app-service/overview-managed-identity#rest-endpoint-reference>).
const AMBIENT: &[&str] = &[
    "AZURE_CLIENT_ID",
    "AZURE_TENANT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
    AUTHORITY,
    "IDENTITY_ENDPOINT",
];

pub(super) fn provider(
    section: &mut Section<'_>,
    env: &BTreeMap<String, String>,
) -> Option<Provider> {
    let account = account(section, env);
    let credentials = credentials(section, env);
    Some(Provider::Azure { account: account?, credentials: credentials? })
}

fn first(env: &BTreeMap<String, String>, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| set(env, name))
}

fn account(section: &mut Section<'_>, env: &BTreeMap<String, String>) -> Option<String> {
    let given = if section.has("account") {
        section.text("account")?
    } else if let Some(account) = first(env, ACCOUNT) {
        account
    } else {
        section.required("account", "the storage account, or AZURE_STORAGE_ACCOUNT")?
    };
    // It becomes part of a host's name
    // (https://learn.microsoft.com/en-us/azure/storage/common/storage-account-overview#storage-account-name).
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !(3..=24).contains(&given.len()) || !given.bytes().all(plain) {
        let message = format!("`{}` is not the name of a storage account", preview(&given));
        section.mistake(Code::BadValue, "account", message, "3 to 24 of a-z and 0-9");
        return None;
    }
    Some(given)
}

/// The configuration's references, or else the environment as Azure's own tools read it.
fn credentials(
    section: &mut Section<'_>,
    env: &BTreeMap<String, String>,
) -> Option<AzureCredentials> {
    const PRINCIPAL: [&str; 3] = ["tenant_id", "client_id", "client_secret"];
    let (has_key, has_sas) = (section.has("account_key"), section.has("sas_token"));
    let has_parts = PRINCIPAL.map(|name| section.has(name));
    let has_principal = has_parts.contains(&true);
    let key = secret(section, "account_key", env);
    let sas = secret(section, "sas_token", env);
    let (tenant, client) = (section.text("tenant_id"), section.text("client_id"));
    let client_secret = secret(section, "client_secret", env);
    if usize::from(has_key) + usize::from(has_sas) + usize::from(has_principal) > 1 {
        let name = if has_sas { "sas_token" } else { "client_secret" };
        let message = "several say who asks";
        section.mistake(Code::BadValue, name, message, KEYS_HINT);
        return None;
    }
    if has_key {
        return self::key(section, key?);
    }
    if has_sas {
        return self::sas(section, sas?);
    }
    if has_principal {
        for (name, has) in PRINCIPAL.iter().zip(has_parts) {
            if !has {
                let message = format!("`{name}` is missing");
                section.mistake(Code::MissingKey, name, message, KEYS_HINT);
            }
        }
        let (tenant, client) = (plain(section, "tenant_id", tenant?)?, client?);
        let (secret, authority) = (client_secret?, authority(section, env).ok()?);
        return Some(AzureCredentials::Principal { tenant, client, secret, authority });
    }
    if let Some(key) = first(env, KEY) {
        return self::key(section, key.into());
    }
    if let Some(sas) = first(env, SAS) {
        return self::sas(section, sas.into());
    }
    if let (Some(tenant), Some(client), Some(secret)) =
        (set(env, "AZURE_TENANT_ID"), set(env, "AZURE_CLIENT_ID"), set(env, "AZURE_CLIENT_SECRET"))
    {
        let tenant = plain(section, "tenant_id", tenant)?;
        let (secret, authority) = (secret.into(), authority(section, env).ok()?);
        return Some(AzureCredentials::Principal { tenant, client, secret, authority });
    }
    let authority = authority(section, env).ok()?;
    let of = |name: &&str| {
        let value = if *name == AUTHORITY { authority.clone() } else { set(env, name) };
        Some(((*name).to_owned(), value?))
    };
    Some(AzureCredentials::Ambient(AMBIENT.iter().filter_map(of).collect()))
}

/// Where another cloud than the public one signs in, if that is said, without the slash that Kubernetes' webhook puts
/// behind it. Fails where it is no place to send a secret to.
fn authority(section: &Section<'_>, env: &BTreeMap<String, String>) -> Result<Option<String>, ()> {
    let Some(given) = set(env, AUTHORITY) else { return Ok(None) };
    let good = Url::parse(&given).is_ok_and(|url| {
        let plain = url.password().is_none() && url.username().is_empty();
        url.scheme() == "https" && plain && url.query().is_none() && url.fragment().is_none()
    });
    if !good {
        let message = format!("`{}` of {AUTHORITY} is not where one signs in", preview(&given));
        let hint = "such as https://login.microsoftonline.us, or leave it out of the environment";
        section.mistake(Code::BadUrl, "url", message, hint);
        return Err(());
    }
    Ok(Some(given.trim_end_matches('/').to_owned()))
}

/// It becomes part of a URL.
fn plain(section: &Section<'_>, name: &str, text: String) -> Option<String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    if text.is_empty() || text.len() > 128 || !text.bytes().all(good) {
        let message = format!("`{}` is not a directory of Azure", preview(&text));
        section.mistake(Code::BadValue, name, message, "its id or its domain");
        return None;
    }
    Some(text)
}

fn key(section: &Section<'_>, key: SecretString) -> Option<AzureCredentials> {
    if STANDARD.decode(key.expose_secret()).is_err() {
        let message = "the key of an account is base64, and this is not; its value is not shown";
        section.mistake(Code::BadValue, "account_key", message, "as the portal shows it");
        return None;
    }
    Some(AzureCredentials::Key(key))
}

fn sas(section: &Section<'_>, sas: SecretString) -> Option<AzureCredentials> {
    let text = sas.expose_secret().trim_start_matches('?');
    let parts: Vec<_> = text.split('&').map(|part| part.split_once('=')).collect();
    let signed = parts.iter().flatten().any(|(name, _)| *name == "sig");
    if !signed || parts.contains(&None) {
        let message = "this is no shared access signature; its value is not shown";
        let hint = "what follows the `?` of its URL: sv=…&se=…&sr=c&sp=…&sig=…";
        section.mistake(Code::BadValue, "sas_token", message, hint);
        return None;
    }
    Some(AzureCredentials::Sas(sas))
}
