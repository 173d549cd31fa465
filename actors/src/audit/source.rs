//! Where a line of a log says something: a field, a part of the path, a parameter of the query.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Where a name (an account, an api) stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A field of a JSON line, or a variable of a line of text.
    Field(String),
    /// What stands for `{account}` or `{api}` in a path.
    Path(PathTemplate),
    /// A parameter of the query.
    Query(String),
}

impl Source {
    /// Reads `path:TEMPLATE`, `query:NAME` or the name of a field or variable.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(template) = text.strip_prefix("path:") {
            let template = PathTemplate::new(template);
            if template.names().next().is_none() {
                return Err("a path has a place for the name, as path:/v1/{account}/*".into());
            }
            return Ok(Self::Path(template));
        }
        if let Some(name) = text.strip_prefix("query:").filter(|name| !name.is_empty()) {
            return Ok(Self::Query(name.to_owned()));
        }
        let name = text.strip_prefix('$').unwrap_or(text);
        if name.is_empty() || name.contains(':') {
            return Err("say path:TEMPLATE, query:NAME, or the name of a field".into());
        }
        Ok(Self::Field(name.to_owned()))
    }
}

/// A path with places: `/v1/{account}/*/{api}`. A place and `*` are one segment each; `**` at the end is
/// any rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PathTemplate {
    segments: Vec<Segment>,
    open: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Text(String),
    /// Text around one place; the name is empty where nothing is to be learned.
    Place {
        before: String,
        name: String,
        after: String,
    },
}

impl PathTemplate {
    pub(super) fn new(text: &str) -> Self {
        let mut segments = Vec::new();
        let mut open = false;
        for part in parts(text) {
            if part == "**" {
                open = true;
                break;
            }
            let place = part.split_once('{').and_then(|(before, rest)| {
                let (name, after) = rest.split_once('}')?;
                Some((before, name, after))
            });
            segments.push(match place {
                _ if part == "*" => place_of("", "", ""),
                Some((before, name, after)) => {
                    let name = name.split('|').next().unwrap_or_default().trim();
                    // More than one place in a segment: what is between them is not told apart.
                    let after = if after.contains('{') { "" } else { after };
                    place_of(before, name, after)
                }
                None => Segment::Text(part.to_owned()),
            });
        }
        Self { segments, open }
    }

    /// The path of a recipe: only its account is of interest.
    pub(super) fn of_recipe(text: &str) -> Self {
        let mut template = Self::new(text);
        for segment in &mut template.segments {
            if let Segment::Place { name, .. } = segment
                && name != "account"
            {
                name.clear();
            }
        }
        template
    }

    /// The names of its places.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Place { name, .. } if !name.is_empty() => Some(name.as_str()),
            _ => None,
        })
    }

    /// Whether a path is of this form.
    pub(super) fn matches(&self, path: &str) -> bool {
        let mut parts = parts(path);
        self.segments.iter().all(|segment| parts.next().is_some_and(|part| segment.matches(part)))
            && (self.open || parts.next().is_none())
    }

    /// What stands at the place of that name, decoded.
    pub(super) fn find<'a>(&self, name: &str, path: &'a str) -> Option<Cow<'a, str>> {
        if !self.matches(path) {
            return None;
        }
        let pairs = self.segments.iter().zip(parts(path));
        let found = pairs.into_iter().find_map(|(segment, part)| match segment {
            Segment::Place { before, name: own, after } if own == name => {
                part.strip_prefix(before.as_str())?.strip_suffix(after.as_str())
            }
            _ => None,
        })?;
        Some(decoded(found))
    }
}

fn place_of(before: &str, name: &str, after: &str) -> Segment {
    Segment::Place { before: before.into(), name: name.into(), after: after.into() }
}

impl Segment {
    fn matches(&self, part: &str) -> bool {
        match self {
            Self::Text(text) => text == part,
            Self::Place { before, after, .. } => {
                part.len() > before.len() + after.len()
                    && part.starts_with(before.as_str())
                    && part.ends_with(after.as_str())
            }
        }
    }
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty())
}

/// The path and the query of a request's target, which may be a whole URL.
pub(super) fn split_target(target: &str) -> (&str, &str) {
    let rest = match target.split_once("://") {
        Some((_, rest)) => rest.find('/').and_then(|slash| rest.get(slash..)).unwrap_or("/"),
        None => target,
    };
    let rest = rest.split('#').next().unwrap_or_default();
    rest.split_once('?').unwrap_or((rest, ""))
}

/// The value of a parameter, decoded.
pub(super) fn query_value<'a>(name: &str, query: &'a str) -> Option<Cow<'a, str>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decoded(key) != name {
            return None;
        }
        Some(if value.contains('+') {
            Cow::Owned(decoded(&value.replace('+', " ")).into_owned())
        } else {
            decoded(value)
        })
    })
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_template_finds_its_places_and_only_in_paths_of_its_form() {
        let template = PathTemplate::new("/v1/{account}/*/r-{api}.json");
        let path = "/v1/act%2F1/x/r-daily.json";
        assert_eq!(template.find("account", path).unwrap(), "act/1");
        assert_eq!(template.find("api", path).unwrap(), "daily");
        for other in ["/v1/a/x/daily.json", "/v1/a/x/r-.json", "/v2/a/x/r-d.json", "/v1/a", ""] {
            assert_eq!(template.find("api", other), None, "{other}");
        }
        assert!(!template.matches("/v1/a/x/r-d.json/more"));
        let open = PathTemplate::new("/{account}/**");
        assert_eq!(open.find("account", "/a/b/c").unwrap(), "a");
        let recipe = PathTemplate::of_recipe("/openapi/v4/{account|upper}/reports/{date|days(-1)}");
        assert_eq!(recipe.find("account", "/openapi/v4/A/reports/2026").unwrap(), "A");
        assert_eq!(recipe.names().collect::<Vec<_>>(), ["account"]);
    }

    #[test]
    fn targets_are_split_and_queries_decoded() {
        assert_eq!(split_target("https://h:1/a/b?x=1#f"), ("/a/b", "x=1"));
        assert_eq!(split_target("/a?x=1?2"), ("/a", "x=1?2"));
        assert_eq!(split_target("http://h"), ("/", ""));
        assert_eq!(query_value("a b", "q=1&a%20b=x+y%2Bz").unwrap(), "x y+z");
        assert_eq!(query_value("no", "q=1&no"), Some(Cow::Borrowed("")));
        assert_eq!(query_value("none", "q=1"), None);
    }

    #[test]
    fn sources_are_read() {
        assert_eq!(Source::parse("$http_x_account"), Ok(Source::Field("http_x_account".into())));
        assert_eq!(Source::parse("query:id"), Ok(Source::Query("id".into())));
        assert!(Source::parse("path:/a/b").is_err());
        assert!(Source::parse("header:x").is_err());
        assert!(Source::parse("").is_err());
    }
}
