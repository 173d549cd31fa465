//! Secrets by reference: `env:NAME`, `file:PATH`, `command:PROGRAM ARGUMENTS`, or a table of accounts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::config::{Value, ValueKind};
use secrecy::ExposeSecret;

use super::BAD;
use crate::auth::Words;
use crate::auth::secret::{self, ACCOUNT, ACCOUNTS_MAX, Fit, Reference, Secret, Source};
use crate::codes::Code;
use crate::config::section::{Section, kind_of};
use crate::ids::{Account, preview};

const REFERENCE: &str =
    "put it into an environment variable or a file: \"env:NAME\" or \"file:PATH\"";

pub(super) fn is_reference(text: &str) -> bool {
    ["env:", "file:", "command:"].iter().any(|prefix| text.starts_with(prefix))
}

/// Text that may stand here, or come from elsewhere.
pub(super) fn words(
    section: &mut Section<'_>,
    name: &'static str,
    env: &BTreeMap<String, String>,
) -> Option<Words> {
    let value = section.take(name)?;
    match &value.kind {
        ValueKind::String(text) if text.is_empty() => {
            section.mistake(BAD, name, format!("`{name}` is empty"), "");
            None
        }
        ValueKind::String(text) if !is_reference(text) => Some(Words::Plain(text.clone())),
        _ => reference_of(section, name, value, env, Fit::Line).map(Words::Secret),
    }
}

/// A secret that is written as `env:NAME`, `file:PATH` or `command:PROGRAM ARGUMENTS`, or as a table of accounts.
pub(super) fn reference(
    section: &mut Section<'_>,
    name: &'static str,
    env: &BTreeMap<String, String>,
    fit: Fit,
) -> Option<Reference> {
    let value = section.take(name)?;
    reference_of(section, name, value, env, fit)
}

pub(super) fn reference_of(
    section: &Section<'_>,
    name: &str,
    value: Value,
    env: &BTreeMap<String, String>,
    fit: Fit,
) -> Option<Reference> {
    match value.kind {
        ValueKind::String(text) => match text.strip_prefix("file:") {
            Some(path) if path.contains(ACCOUNT) => {
                let folder = Path::new(path).parent();
                if folder.is_some_and(|folder| folder.to_string_lossy().contains(ACCOUNT)) {
                    // Each account's folder may come later.
                } else if let Some(folder) = folder.filter(|folder| !folder.as_os_str().is_empty())
                    && !folder.is_dir()
                {
                    let message = format!("the folder `{}` is not there", folder.display());
                    section.mistake(Code::SecretNotFound, name, message, "");
                    return None;
                }
                Some(Reference::files(path.to_owned(), fit))
            }
            _ => secret(section, name, &text, env, fit).map(Reference::One),
        },
        ValueKind::Table(_) => {
            let mut table = section.section_of(name, value)?;
            let entries = table.entries();
            if entries.is_empty() || entries.len() > ACCOUNTS_MAX {
                let message =
                    format!("{} accounts, 1 to {ACCOUNTS_MAX} are allowed", entries.len());
                section.mistake(Code::TooMany, name, message, "");
                return None;
            }
            let mut secrets = BTreeMap::new();
            for (account, value) in entries {
                let ValueKind::String(text) = value.kind else {
                    let message = format!("{} where a secret belongs", kind_of(&value));
                    table.mistake(Code::WrongType, &account, message, REFERENCE);
                    continue;
                };
                match Account::new(&account) {
                    Ok(of) => {
                        let secret = secret(&table, &account, &text, env, fit);
                        secrets.extend(secret.map(|secret| (of, secret)));
                    }
                    Err(reason) => table.mistake(Code::BadAccount, &account, reason, ""),
                }
            }
            Some(Reference::Table(Arc::new(secrets)))
        }
        _ => {
            let message = format!("{} where a secret belongs", kind_of(&value));
            section.mistake(Code::WrongType, name, message, REFERENCE);
            None
        }
    }
}

fn secret(
    section: &Section<'_>,
    name: &str,
    text: &str,
    env: &BTreeMap<String, String>,
    fit: Fit,
) -> Option<Secret> {
    let found = if let Some(variable) = text.strip_prefix("env:") {
        let value = env
            .get(variable)
            .cloned()
            .ok_or_else(|| format!("the environment has no variable `{}`", preview(variable)));
        value.and_then(|value| {
            secret::check(&value, fit)?;
            Ok(Secret::known(Source::Env(variable.to_owned()), value))
        })
    } else if let Some(path) = text.strip_prefix("file:") {
        let secret = Secret::unread(Source::File(PathBuf::from(path)), fit);
        secret.read_file().map(|_| secret)
    } else if let Some(command) = text.strip_prefix("command:") {
        let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        program(&words, env).map(|()| Secret::unread(Source::Command(words), fit))
    } else {
        section.mistake(
            Code::InlineSecret,
            name,
            "a secret may not be written here; its value is not shown",
            REFERENCE,
        );
        return None;
    };
    match found {
        Ok(secret) => Some(secret),
        Err(problem) => {
            section.mistake(Code::SecretNotFound, name, problem, "");
            None
        }
    }
}

/// Whether a program is there to be run. It is run when its secret is needed, not to check it.
fn program(words: &[String], env: &BTreeMap<String, String>) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let Some(program) = words.first() else {
        return Err("`command:` names no program".to_owned());
    };
    let runs = |path: &Path| {
        let about = std::fs::metadata(path);
        about.is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    let there = if program.contains('/') {
        runs(Path::new(program))
    } else {
        let path = env.get("PATH").map(String::as_str).unwrap_or_default();
        std::env::split_paths(path).any(|folder| runs(&folder.join(program)))
    };
    there.then_some(()).ok_or_else(|| format!("there is no program `{}`", preview(program)))
}

/// Checks what a secret says, as far as it is known.
pub(super) fn check_known(
    section: &Section<'_>,
    key: &str,
    reference: &Reference,
    check: impl Fn(&str) -> Result<(), String>,
) {
    let mut known = reference.all().into_iter().filter_map(|secret| secret.get());
    if let Some(problem) = known.find_map(|text| check(text.expose_secret()).err()) {
        let message = format!("the secret cannot be used: {problem}");
        section.mistake(Code::BadSecret, key, message, "");
    }
}
