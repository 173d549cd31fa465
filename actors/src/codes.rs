//! Error codes: stable names for everything that can go wrong, each with a page.
//!
//! A code never changes its meaning and is never used again for another. The page is the one source
//! of the title, of `tollgate explain` and of the documentation of the variants below.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! codes {
    ($($number:literal => $name:ident,)*) => {
        /// What went wrong, as a stable code: `TG00xx` the configuration, `TG01xx` a fetch, `TG02xx` a
        /// call, `TG03xx` state, store and running, `TG04xx` NATS, `TG05xx` credentials, `TG06xx` the page and the API.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(
                #[doc = include_str!(concat!("codes/", $number, ".md"))]
                $name,
            )*
        }

        /// Every code, in the order of their numbers.
        const ALL: &[Code] = &[$(Code::$name,)*];

        impl Code {
            /// The code as it is shown and stored: `TG0007`.
            pub fn id(self) -> &'static str {
                match self { $(Self::$name => $number,)* }
            }

            /// Its page: what it means and what to do, as Markdown.
            pub fn page(self) -> &'static str {
                match self {
                    $(Self::$name => include_str!(concat!("codes/", $number, ".md")),)*
                }
            }
        }
    };
}

codes! {
    // The configuration.
    "TG0001" => ConfigSyntax,
    "TG0002" => ConfigUnreadable,
    "TG0003" => UnknownKey,
    "TG0004" => MissingKey,
    "TG0005" => WrongType,
    "TG0006" => BadValue,
    "TG0007" => BadDuration,
    "TG0008" => SlidingDay,
    "TG0009" => ImpossibleLimit,
    "TG0010" => DuplicateLimit,
    "TG0011" => BadTemplate,
    "TG0012" => UnknownVariable,
    "TG0013" => InlineSecret,
    "TG0014" => SecretNotFound,
    "TG0015" => HostNotDeclared,
    "TG0016" => NotSupported,
    "TG0017" => UnknownStore,
    "TG0018" => UnsafeKey,
    "TG0019" => BadUrl,
    "TG0020" => BadName,
    "TG0021" => NoPlatforms,
    "TG0022" => BadSize,
    "TG0023" => ReservedName,
    "TG0024" => TooMany,
    "TG0025" => BadHeader,
    "TG0030" => BadSecret,
    "TG0034" => NoStopRule,
    "TG0035" => PageStateUnused,
    "TG0040" => UnknownLimit,
    "TG0042" => NarrowKey,
    // A fetch that cannot be called.
    "TG0101" => FetchNotJson,
    "TG0102" => FetchTooLarge,
    "TG0103" => FetchUnknownField,
    "TG0104" => FetchWrongType,
    "TG0105" => UnknownPlatform,
    "TG0106" => UnknownApi,
    "TG0107" => FetchMissingField,
    "TG0108" => BadAccount,
    "TG0109" => BadId,
    "TG0110" => MissingParameter,
    "TG0111" => BadParameter,
    "TG0112" => UnknownParameter,
    "TG0113" => HostRefused,
    "TG0114" => DeadlinePassed,
    "TG0115" => FetchNotSupported,
    "TG0116" => FetchNotUtf8,
    "TG0117" => BadLabels,
    "TG0118" => UnsafePath,
    "TG0119" => UnsafeHeader,
    "TG0120" => RequestTooLong,
    "TG0121" => TemplateFailed,
    "TG0122" => KeyRefused,
    "TG0123" => SubjectMismatch,
    "TG0124" => FetchNotProtobuf,
    "TG0125" => UnknownContentType,
    "TG0126" => BadCsvHeader,
    "TG0127" => BadCsvRow,
    "TG0128" => BadSubject,
    "TG0129" => BadCost,
    "TG0131" => KeyTaken,
    // How a call ended.
    "TG0201" => PermanentStatus,
    "TG0202" => AttemptsExhausted,
    "TG0203" => BodyTooLarge,
    "TG0204" => BodyExpandsTooMuch,
    "TG0205" => HtmlInstead,
    "TG0206" => RedirectRefused,
    "TG0207" => AnswerBroken,
    "TG0208" => BadEncoding,
    "TG0209" => PoisonFetch,
    "TG0210" => ThrottleDied,
    "TG0211" => NeverAllowed,
    "TG0220" => RefusedByRule,
    "TG0230" => NextPageElsewhere,
    "TG0231" => PagesRepeat,
    "TG0232" => TooManyPages,
    "TG0233" => PageStateNotFound,
    "TG0234" => RowsCapped,
    "TG0235" => ReadIncomplete,
    "TG0236" => PageTokensExpire,
    "TG0240" => AnswerRefused,
    "TG0241" => AnswerIncomplete,
    "TG0242" => AnswerUnreadable,
    "TG0243" => ColumnsMissing,
    "TG0244" => BadArchive,
    "TG0245" => BadCharset,
    "TG0246" => AnswerLost,
    "TG0247" => TooMuch,
    // State, store and running.
    "TG0301" => StateLocked,
    "TG0302" => StateUnreadable,
    "TG0303" => StateVersion,
    "TG0304" => StoreUnavailable,
    "TG0305" => DiskFull,
    "TG0306" => StoppedWithFetchesLeft,
    "TG0307" => ShardDied,
    "TG0308" => LedgerUnavailable,
    "TG0309" => QueueUnavailable,
    "TG0310" => InputUnreadable,
    "TG0311" => LedgerUnreadable,
    "TG0312" => TooFewFiles,
    "TG0313" => HttpListen,
    "TG0316" => RestartNeeded,
    "TG0320" => AuditAsked,
    "TG0322" => TooManyOpen,
    // NATS.
    "TG0401" => NatsUnreachable,
    "TG0402" => NatsVersion,
    "TG0403" => NoJetStream,
    "TG0404" => NatsDenied,
    "TG0405" => NatsFull,
    "TG0406" => StreamDiffers,
    "TG0407" => StreamMissing,
    "TG0408" => NoNodeAnswers,
    "TG0409" => NatsTls,
    // Credentials.
    "TG0501" => TokenRefused,
    "TG0502" => TokenUnavailable,
    "TG0503" => SecretUnavailable,
    "TG0504" => TokenNotKept,
    // The page and the API.
    "TG0601" => TooManyQuestions,
    "TG0602" => NotAtWork,
    "TG0603" => NoToken,
    "TG0604" => TokenNotSet,
    "TG0605" => HostNotOurs,
    "TG0606" => ForeignOrigin,
    "TG0607" => BadQuestion,
    "TG0608" => NoSuchThing,
    "TG0609" => NotHere,
}

impl Code {
    /// A few words: the heading of its page without the code.
    pub fn title(self) -> &'static str {
        let heading = self.page().lines().next().unwrap_or_default();
        heading.split_once(": ").map_or(heading, |(_, title)| title)
    }

    /// The code of that name, in any case: `TG0007`, `tg0007`.
    pub fn parse(text: &str) -> Option<Self> {
        ALL.iter().copied().find(|code| code.id().eq_ignore_ascii_case(text.trim()))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("no code of this version"))
    }
}

/// Every code, in the order of their numbers.
pub fn all() -> &'static [Code] {
    ALL
}

/// The page of a code, written in any case; `None` if there is no such code.
pub fn explain(code: &str) -> Option<&'static str> {
    Code::parse(code).map(Code::page)
}

#[cfg(test)]
mod tests;
