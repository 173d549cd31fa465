//! A record takes its place: what it replaces is removed only once nobody can have taken its files away.
//!
//! One process stages a table, and knows it by a lock or a lease; one that was frozen, or whose lease has just lapsed, may
//! not know yet that it is not the one. What it has made is, to its successor, a file that no record names. So files and
//! records are looked at before a record is put, and the files again after that: a store has no step that does all of it.
//! What happens in spite of that is found by the next look at all, which misses the file.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::record::{AT_ONCE, Record, key_of, read_one};
use super::stager::Stager;

/// Records of jobs as they were read; None: there was none.
pub(super) type Seen<'r> = BTreeMap<&'r str, Option<&'r Record>>;

impl Stager {
    /// What shows that another process stages the table, before a record is put in the place of what was seen.
    pub(super) async fn odd(
        &self,
        record: &Record,
        seen: &Seen<'_>,
    ) -> anyhow::Result<Option<String>> {
        if let Some(path) = self.first_gone(&record.files).await? {
            return Ok(Some(self.removed(&path)));
        }
        let looks = stream::iter(seen).map(|(job, seen)| async move {
            let now = read_one(&self.store, job, &self.stage.to).await?;
            let is_as_seen = match (&now, seen) {
                (Some(now), Some(seen)) => now.is_same(seen),
                (None, None) => true,
                _ => false,
            };
            anyhow::Ok((!is_as_seen).then(|| key_of(job, &self.stage.to)))
        });
        let others = looks.buffer_unordered(AT_ONCE);
        let others = others.try_filter_map(|other| std::future::ready(Ok(other)));
        let other = std::pin::pin!(others).try_next().await?;
        Ok(other.map(|key| {
            format!("`{key}` is another since it was read: does another process stage this table?")
        }))
    }

    /// Puts a record in the place of what its job had before, and removes what no longer counts. The inner text: a file of
    /// it is gone, and it was undone; `made` is what was made for it.
    pub(super) async fn place(
        &self,
        record: &mut Record,
        before: Option<&Record>,
        made: &[String],
    ) -> anyhow::Result<Option<String>> {
        record.put(&self.store, &self.stage.to).await?;
        let Some(path) = self.first_gone(&record.files).await? else {
            self.clean(record).await?;
            return Ok(None);
        };
        if self.is_there(record).await? {
            match before {
                Some(before) => {
                    let mut before = before.clone();
                    if before.is_doubled {
                        // Some of its objects are no longer among its inputs: as if it were declared otherwise.
                        before.table.clear();
                    }
                    before.put(&self.store, &self.stage.to).await?;
                }
                None => self.store.delete(&record.key(&self.stage.to)).await?,
            }
        }
        self.remove(made.iter()).await?;
        Ok(Some(self.removed(&path)))
    }

    /// Whether a record is the one that is there.
    pub(super) async fn is_there(&self, record: &Record) -> anyhow::Result<bool> {
        let now = read_one(&self.store, &record.job, &self.stage.to).await?;
        Ok(now.is_some_and(|now| now.is_same(record)))
    }

    fn removed(&self, path: &str) -> String {
        format!(
            "`{}/{path}` was removed as soon as it was written: does another process stage this table?",
            self.stage.to
        )
    }
}
