//! An archive of which several members are stored: each becomes an object as it comes, and the manifest names them all
//! when the archive is whole.
//!
//! Each member is judged as the body of an answer is. The first that is not good decides over the whole answer; what
//! was stored of it before has no manifest then, as after a kill, and the next try stores all of it under the same keys.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::LocalBoxStream;
use object_store::Attributes;
use object_store::path::Path;
use tokio::time::Instant;
use tollgate_gate::Sent;
use tollgate_protos::{Done, Object, Provenance};

use super::attempt::{Attempt, finish_until_confirmed};
use super::judging::Told;
use super::landing::manifest;
use super::owner::Entered;
use super::provenance::object;
use super::{LastAnswer, Outcome};
use crate::answers::{Class, Look, Looked};
use crate::codes::Code;
use crate::http::CallError;
use crate::ids::preview;
use crate::queue::Ending;
use crate::recipe::{self, Refusal};
use crate::store::{
    Decode, MemberName, Members, Pick, Sealed, Sink, SinkError, SinkOptions, Stored, Unpack,
    Unpacked, Unwrap,
};
use crate::telemetry;

/// An archive with nothing in it (APPNOTE 6.3.10 §4.3.16).
const NOTHING_IN_IT: &[u8] = b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Where the objects of an archive go, and how.
pub(super) struct Landing {
    pub(super) status: u16,
    pub(super) members: Members,
    pub(super) options: SinkOptions,
    /// The key of a body that is one object.
    pub(super) key: Path,
    pub(super) manifest_key: Path,
    /// What tells of the compression in a key.
    pub(super) suffix: &'static str,
    /// Where all of it comes from.
    pub(super) from: Provenance,
}

/// Why an archive is not stored.
enum Fail {
    Body(CallError),
    Store(SinkError),
    Key(Refusal),
    /// Its folder is another's.
    Taken(Outcome),
    /// Rules say no, of a member if it has a name.
    Refused(Option<Looked>, Option<String>),
}

impl From<SinkError> for Fail {
    fn from(error: SinkError) -> Self {
        Self::Store(error)
    }
}

/// What is stored of an archive so far.
#[derive(Default)]
struct Taken<'a> {
    /// Its folder, from the first object to the manifest.
    entered: Option<Entered<'a>>,
    objects: Vec<Object>,
    bytes: u64,
    /// Of a member that is not empty by a rule, or of none.
    filled: bool,
    incomplete: bool,
    request_id: Option<String>,
    /// What earlier collections and tries under these keys have left; known from the first object on.
    earlier: Option<BTreeSet<Path>>,
}

/// The member, or the body that is no archive, on its way into the store.
struct Current {
    sink: Sink,
    look: Option<Look>,
    name: Option<MemberName>,
}

impl Attempt<'_> {
    /// Stores the members of an answer that are wanted, and ends its fetch.
    pub(super) async fn store_members(
        &self,
        mut body: LocalBoxStream<'static, Result<Bytes, CallError>>,
        told: Told,
        look: Option<Look>,
        landing: Landing,
    ) -> Outcome {
        let last = LastAnswer { status: Some(landing.status), ..LastAnswer::default() };
        let mut taken = Taken::default();
        let took = self.take_apart(&mut body, look, &landing, &mut taken).await;
        drop(body);
        self.permit.call_ended(Sent::Maybe);
        self.mark(&self.marks.body);
        let ended = Instant::now();
        let finished = match took {
            Ok(()) => self.tell_members(&landing, &mut taken).await,
            Err(fail) => {
                // What takes its place enters the folder itself.
                taken.entered = None;
                Err(fail)
            }
        };
        self.meters.store_finished(ended.elapsed());
        match finished {
            Ok(done) => {
                // From here on it is done.
                let objects = u32::try_from(done.objects.len()).unwrap_or(u32::MAX);
                let ending = Ending::Done { done: Box::new(done), once: self.item.fetch.once };
                self.mark(&self.marks.finishing);
                self.permit.stored();
                finish_until_confirmed(self.shard, self.meters, self.item, ending).await;
                self.mark(&self.marks.finished);
                Outcome::Done { bytes: taken.bytes, objects }
            }
            Err(Fail::Body(error)) => {
                Self::failed(&error, LastAnswer { flaw: Some(Code::AnswerBroken), ..last })
            }
            Err(Fail::Store(error)) => self.unstored(&error, last),
            Err(Fail::Key(refusal)) => {
                Outcome::Dead { code: refusal.code, reason: refusal.reason, last }
            }
            Err(Fail::Taken(outcome)) => outcome,
            Err(Fail::Refused(mut looked, name)) => {
                let verdict = looked.as_mut().and_then(|looked| looked.verdict.as_mut());
                if let (Some(verdict), Some(name)) = (verdict, name) {
                    verdict.why = format!("{}, in its file `{}`", verdict.why, preview(&name));
                }
                self.refused_as(told, looked).await
            }
        }
    }

    async fn take_apart<'a>(
        &'a self,
        body: &mut LocalBoxStream<'static, Result<Bytes, CallError>>,
        look: Option<Look>,
        landing: &Landing,
        taken: &mut Taken<'a>,
    ) -> Result<(), Fail> {
        let Landing { key, members, options, .. } = landing;
        let mut unpack = self.shard.store.unpack(key.clone(), members.clone(), options);
        let mut current = None;
        loop {
            let piece = body.next().await;
            let is_all = piece.is_none();
            let pushed = match piece {
                Some(Ok(piece)) => unpack.push(piece).await.map_err(Fail::from),
                Some(Err(error)) => Err(Fail::Body(error)),
                None => {
                    self.permit.call_ended(Sent::Maybe);
                    unpack.end().await.map_err(Fail::from)
                }
            };
            let worked = match pushed {
                Ok(()) => {
                    self.work_off(&mut unpack, look.as_ref(), landing, (&mut current, taken)).await
                }
                failed => failed,
            };
            if let Err(fail) = worked {
                if let Some(Current { sink, .. }) = current {
                    sink.abort().await;
                }
                return Err(fail);
            }
            if is_all {
                break;
            }
        }
        // A body that is no archive, or one of nothing, ends with the answer.
        match current {
            Some(whole) => self.store_current(whole, landing, taken).await,
            None => Ok(()),
        }
    }

    /// Takes all that has come out of the archive.
    async fn work_off<'a>(
        &'a self,
        unpack: &mut Unpack,
        look: Option<&Look>,
        landing: &Landing,
        (current, taken): (&mut Option<Current>, &mut Taken<'a>),
    ) -> Result<(), Fail> {
        while let Some(next) = unpack.next().await? {
            match next {
                Unpacked::Began(name) => {
                    let key = self.member_key(&name, landing).map_err(Fail::Key)?;
                    let look = look.map(Look::anew);
                    let options = landing.of(Unwrap::None);
                    let about = self.about(&landing.from);
                    let member = Current::new(unpack, (key, options), look, Some(name));
                    *current = Some(member.about(about));
                }
                Unpacked::Plain | Unpacked::Empty => {
                    // A sink that expects an archive lets rules have the word on what is none, or on nothing.
                    let options = landing.of(Unwrap::Zip(Pick(None)));
                    let at = (landing.key.clone(), options);
                    let about = self.about(&landing.from);
                    let mut whole = Current::new(unpack, at, look.cloned(), None).about(about);
                    if matches!(next, Unpacked::Empty) {
                        whole.sink.write(Bytes::from_static(NOTHING_IN_IT)).await?;
                    }
                    *current = Some(whole);
                }
                Unpacked::Bytes(bytes) => {
                    if let Some(current) = current {
                        current.sink.write(bytes).await?;
                    }
                }
                Unpacked::Ended => {
                    if let Some(member) = current.take() {
                        self.store_current(member, landing, taken).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The key of a member: without the secrets that its name may hold.
    fn member_key(&self, name: &MemberName, landing: &Landing) -> Result<Path, Refusal> {
        let of = |clean| recipe::member_key(&landing.key, &name.bytes, clean, landing.suffix);
        let redactor = self.redactor();
        let holds_one = |key: &Path| key.filename().is_some_and(|last| redactor.is_in(last));
        let key = of(None)?;
        if !holds_one(&key) && !redactor.is_in(&name.text) {
            return Ok(key);
        }
        let clean = redactor.clean(&name.text);
        let key = of(Some(&clean))?;
        // Some are secrets as they are written in a key.
        if holds_one(&key) { of(Some("")) } else { Ok(key) }
    }

    /// Makes a member an object, if rules let it.
    async fn store_current<'a>(
        &'a self,
        current: Current,
        landing: &Landing,
        taken: &mut Taken<'a>,
    ) -> Result<(), Fail> {
        let Current { sink, look, name } = current;
        let name = name.map(|name| self.hide(name.text));
        let looked = || look.as_ref().and_then(Look::looked);
        let sealed = match sink.seal().await {
            Ok(sealed) => sealed,
            Err(SinkError::Refused { .. }) => return Err(Fail::Refused(looked(), name)),
            Err(error) => return Err(Fail::Store(error)),
        };
        let Looked { verdict, request_id, .. } = looked().unwrap_or_default();
        let class = verdict.map(|verdict| verdict.class);
        if let Err(fail) = self.enter_first(landing, taken).await {
            sealed.abort().await;
            return Err(fail);
        }
        let stored = self.complete_member(sealed, name.as_ref(), landing, taken).await?;
        if let Some(name) = &name {
            telemetry::member_stored(self.item, name, stored.bytes);
        }
        taken.objects.push(Object { member: name, ..object(&stored) });
        taken.bytes += stored.bytes;
        taken.filled |= class != Some(Class::Empty);
        taken.incomplete |= class == Some(Class::Incomplete);
        taken.request_id = taken.request_id.take().or(request_id);
        Ok(())
    }

    /// Before its first object, or the manifest of none: its folder for itself.
    async fn enter_first<'a>(
        &'a self,
        landing: &Landing,
        taken: &mut Taken<'a>,
    ) -> Result<(), Fail> {
        if taken.entered.is_none() {
            let last = LastAnswer { status: Some(landing.status), ..LastAnswer::default() };
            let entered = self.enter(&landing.manifest_key, &last).await;
            taken.entered = Some(entered.map_err(Fail::Taken)?);
        }
        Ok(())
    }

    async fn complete_member(
        &self,
        sealed: Sealed,
        name: Option<&String>,
        landing: &Landing,
        taken: &mut Taken<'_>,
    ) -> Result<Stored, SinkError> {
        if taken.earlier.is_none() {
            let place = self.place();
            let earlier = place.earlier(&landing.manifest_key).await?;
            // Before the first of its own: what another of the same keys stores from now on is not this one's to remove.
            let left = place.members_left(&landing.manifest_key).await?;
            if earlier.is_there {
                // It would speak of objects of both.
                place.clear_manifest(&landing.manifest_key).await?;
            }
            let named = earlier.beside(&landing.manifest_key);
            taken.earlier = Some(named.into_iter().chain(left).collect());
        }
        self.telling(sealed, name, &landing.from).complete().await
    }

    /// All is there: removes what earlier collections and tries had more, and writes the manifest.
    async fn tell_members<'a>(
        &'a self,
        landing: &Landing,
        taken: &mut Taken<'a>,
    ) -> Result<Done, Fail> {
        self.enter_first(landing, taken).await?;
        let is_named = |key: &Path| taken.objects.iter().any(|object| object.key == key.as_ref());
        let earlier = taken.earlier.take().unwrap_or_default();
        let others = earlier.into_iter().filter(|key| !is_named(key));
        self.place().remove_each(others).await?;
        let done = Done {
            objects: std::mem::take(&mut taken.objects),
            pages: 1,
            empty: !taken.filled && !taken.incomplete,
            incomplete: taken.incomplete,
            // Whatever the provider says it is.
            request_id: taken.request_id.take().map(|id| self.hide(id)),
            ..self.done_without_objects(landing.status)
        };
        let text = manifest(self.shard, self.item, &done, landing.from.clone());
        self.shard.store.put_small(&landing.manifest_key, text).await?;
        taken.entered = None;
        Ok(done)
    }
}

impl Landing {
    /// How what came out of the archive is stored.
    fn of(&self, unwrap: Unwrap) -> SinkOptions {
        SinkOptions { decode: Decode::Identity, unwrap, ..self.options.clone() }
    }
}

impl Current {
    /// With what is kept with it.
    fn about(self, about: Attributes) -> Self {
        Self { sink: self.sink.about(about), ..self }
    }

    fn new(
        unpack: &Unpack,
        (key, options): (Path, SinkOptions),
        look: Option<Look>,
        name: Option<MemberName>,
    ) -> Self {
        let mut sink = unpack.sink(key, options);
        if let Some(look) = &look {
            sink = sink.inspected(Box::new(look.clone()));
        }
        Self { sink, look, name }
    }
}
