//! What every vault promises, and what its files are like.

use std::sync::Arc;

use super::*;
use crate::auth::vault::{FileVault, MemoryVault, VaultError};
use crate::nats::session::{About, Session, SessionId};
use crate::nats::tokens::NatsVault;

async fn keeps_its_promises(vault: Arc<dyn Vault>) {
    let (one, two) = (Bytes::from_static(b"{\"a\":1}\n"), Bytes::from_static(b"\n{\"a\":2}"));
    assert_eq!(vault.load("p._._").await.unwrap(), None);
    assert_eq!(vault.store("p._._", 7, one.clone()).await, Err(VaultError::Conflict));
    assert_eq!(vault.load("p._._").await.unwrap(), None);
    let first = vault.store("p._._", 0, one.clone()).await.unwrap();
    assert!(first > 0);
    assert_eq!(vault.store("p._._", 0, two.clone()).await, Err(VaultError::Conflict));
    let kept = vault.load("p._._").await.unwrap().unwrap();
    assert_eq!((kept.version, &kept.record), (first, &one));
    assert!(!format!("{kept:?}").contains("a\\\""), "{kept:?}");
    let second = vault.store("p._._", first, two.clone()).await.unwrap();
    assert!(second > first);
    assert_eq!(vault.store("p._._", first, one.clone()).await, Err(VaultError::Conflict));
    assert_eq!(vault.load("p._._").await.unwrap().unwrap().record, two);
    assert_eq!(vault.load("p._.main").await.unwrap(), None);
    // Of many who replace the same record one wins.
    let all = (0..16).map(|_| vault.store("p._._", second, one.clone()));
    let won = futures_util::future::join_all(all).await.into_iter().flatten().count();
    assert_eq!(won, 1);
}

#[tokio::test]
async fn records_in_memory_keep_the_promises_of_a_vault() {
    keeps_its_promises(Arc::new(MemoryVault::default())).await;
}

#[tokio::test]
async fn records_in_files_keep_the_promises_of_a_vault_and_are_their_owners_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    keeps_its_promises(Arc::new(FileVault::new(folder.path()))).await;
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let tokens = folder.path().join("tokens");
    assert_eq!(mode(&tokens), 0o700);
    let files: Vec<_> =
        std::fs::read_dir(&tokens).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files, [tokens.join("p._._.token")]);
    assert_eq!(mode(&files[0]), 0o600);
    // Another process reads the same.
    let again = FileVault::new(folder.path());
    assert_eq!(again.load("p._._").await.unwrap().unwrap().version, 3);
    // What a crash left beside it is nobody's, and a damaged one is not taken for none.
    std::fs::write(tokens.join("p._._.new"), "half").unwrap();
    assert_eq!(again.store("p._._", 3, Bytes::from_static(b"x")).await, Ok(4));
    std::fs::write(&files[0], "nonsense").unwrap();
    assert!(matches!(again.load("p._._").await, Err(VaultError::Away(_))));
    assert!(matches!(again.store("p._._", 0, Bytes::new()).await, Err(VaultError::Away(_))));
}

#[tokio::test]
async fn records_in_nats_keep_the_promises_of_a_vault_and_outlive_their_node() {
    let (_folder, _server, bus) = crate::nats::tests::ready("").await;
    let session = async |before: Vec<SessionId>| {
        let about = About {
            node: "test".into(),
            version: "0".into(),
            started: Timestamp::UNIX_EPOCH,
            config: String::new(),
        };
        Arc::new(Session::start(&bus, SessionId::draw(), before, &about).await.unwrap())
    };
    let first = session(Vec::new()).await;
    keeps_its_promises(Arc::new(NatsVault::new(&bus, Arc::clone(&first)))).await;
    let one = NatsVault::new(&bus, Arc::clone(&first));
    let other = NatsVault::new(&bus, session(Vec::new()).await);
    assert!(other.load("p._._").await.unwrap().is_some());
    assert_ne!(one.me(), other.me());
    assert!(!other.is_gone(&one.me()).await, "it lives");
    assert!(!other.is_gone("nonsense").await);
    // One that runs where the first did knows that it is gone.
    let next = NatsVault::new(&bus, session(vec![first.id()]).await);
    assert!(next.is_gone(&one.me()).await);
}
