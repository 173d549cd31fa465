//! The keys of `[store]` that a bucket of Google has.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::bucket::set;
use super::secret::{secret, secret_text};
use super::section::Section;
use crate::auth::secret::read;
use crate::codes::Code;
use crate::plan::{GoogleCredentials, Provider};

pub(super) const KEYS: &[&str] = &["service_account", "access_token"];
pub(super) const KEYS_HINT: &str =
    "service_account = \"file:PATH\", the key of a service account in JSON";

/// Where Google's own tools look first
/// (<https://cloud.google.com/docs/authentication/application-default-credentials>).
const FILE: &str = "GOOGLE_APPLICATION_CREDENTIALS";

pub(super) fn provider(
    section: &mut Section<'_>,
    env: &BTreeMap<String, String>,
) -> Option<Provider> {
    let (has_account, has_token) = (section.has("service_account"), section.has("access_token"));
    let account = secret_text(section, "service_account", env);
    let token = secret(section, "access_token", env);
    if has_account && has_token {
        let message = "a service account and a token: one of them says who asks";
        section.mistake(Code::BadValue, "access_token", message, "leave one of them out");
        return None;
    }
    if has_account {
        let account = account?;
        return match kind_of(&account) {
            Ok(kind) if kind == "service_account" => {
                Some(Provider::Google(GoogleCredentials::ServiceAccount(account)))
            }
            Ok(_) | Err(()) => {
                let message = "this is no key of a service account; its value is not shown";
                section.mistake(Code::BadValue, "service_account", message, KEYS_HINT);
                None
            }
        };
    }
    if has_token {
        return token.map(|token| Provider::Google(GoogleCredentials::Token(token)));
    }
    let Some(path) = set(env, FILE) else {
        return Some(Provider::Google(GoogleCredentials::Ambient));
    };
    let problem = match read(Path::new(&path)).map(SecretString::from) {
        Err(reason) => format!("the file `{path}` of {FILE} cannot be read: {reason}"),
        Ok(text) => match kind_of(&text) {
            Ok(kind) if ["service_account", "authorized_user"].contains(&&*kind) => {
                let file = GoogleCredentials::File(PathBuf::from(path));
                return Some(Provider::Google(file));
            }
            Ok(kind) => format!(
                "the file `{path}` of {FILE} holds credentials of the type `{}`, which are not read",
                crate::ids::preview(&kind)
            ),
            Err(()) => format!("the file `{path}` of {FILE} holds no credentials of Google's"),
        },
    };
    let hint = "the key of a service account, or none where the machine itself has an identity (a node of GKE or \
                Compute Engine)";
    section.mistake(Code::SecretNotFound, "service_account", problem, hint);
    None
}

/// The type of credentials that a file says it holds.
fn kind_of(text: &SecretString) -> Result<String, ()> {
    #[derive(Deserialize)]
    struct Kind {
        #[serde(rename = "type")]
        kind: String,
    }
    // What is wrong could show the text.
    serde_json::from_str::<Kind>(text.expose_secret()).map(|found| found.kind).map_err(|_| ())
}
