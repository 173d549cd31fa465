//! What is read of a record, as a tree of names, and the Arrow type that reads it.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields};

use crate::table::{From, Step, Table};

/// Name of a list's elements, as Arrow has it.
const ELEMENT: &str = "item";

/// One place of a record.
#[derive(Debug)]
pub(crate) enum Node {
    /// A value that a column takes.
    Leaf,
    /// An object, of which these members are read.
    Object(Vec<(String, Node)>),
    /// A list that is exploded.
    List(Box<Node>),
}

/// Where something stands: the exploded list whose elements it is in (0: the record itself), and the members from
/// there down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) scope: usize,
    pub(crate) members: Vec<String>,
}

/// A record as it is read.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) root: Node,
    /// Where each list is that is exploded, in order.
    pub(crate) explodes: Vec<Place>,
    /// Where each column's values are; none for those that are about the input.
    pub(crate) columns: Vec<Option<Place>>,
}

impl Tree {
    /// The tree of a table.
    ///
    /// # Errors
    /// Two columns want one place to be a value and an object, or an exploded list lies in none that is before it.
    pub(crate) fn new(table: &Table) -> Result<Self, String> {
        let mut root = Node::Object(Vec::new());
        for list in &table.explode {
            let node = reach(&mut root, list)?;
            match node {
                Node::Object(members) if members.is_empty() => {
                    *node = Node::List(Box::new(Node::Object(Vec::new())));
                }
                _ => {
                    return Err(format!(
                        "`{}` is exploded twice, or around another",
                        list.join(".")
                    ));
                }
            }
        }
        for column in &table.columns {
            let From::Path(path) = &column.from else { continue };
            let node = reach(&mut root, path)?;
            let place = match node {
                Node::List(inner) => &mut **inner,
                node => node,
            };
            match place {
                Node::Leaf => {}
                Node::Object(members) if members.is_empty() => *place = Node::Leaf,
                _ => {
                    return Err(format!(
                        "`{}` is an object of which other columns are made",
                        path.join(".")
                    ));
                }
            }
        }
        let lists = &table.explode;
        let mut explodes = Vec::with_capacity(lists.len());
        for (number, list) in lists.iter().enumerate() {
            let place = place(&lists[..number], list, false);
            if lists.iter().any(|other| other.len() < list.len() && list.starts_with(other))
                && place.scope == 0
            {
                return Err(format!("`{}` must come after the list it is in", list.join(".")));
            }
            if matches!(reach(&mut root, list)?, Node::List(inner) if matches!(&**inner, Node::Object(m) if m.is_empty()))
            {
                return Err(format!("no column is read from `{}`", list.join(".")));
            }
            explodes.push(place);
        }
        let columns = table.columns.iter().map(|column| match &column.from {
            From::Path(path) => Some(place(lists, path, true)),
            From::Input(_) => None,
        });
        let columns = columns.collect();
        Ok(Self { root, explodes, columns })
    }

    /// What a record is read as: every value as text.
    pub(crate) fn record_type(&self) -> DataType {
        data_type(&self.root)
    }

    /// What a document is read as, in which the records are. Elements of the last list must be objects, so that an
    /// element that is none is found.
    pub(crate) fn document_type(&self, steps: &[Step]) -> DataType {
        let Some((step, below)) = steps.split_first() else { return self.record_type() };
        let inner = self.document_type(below);
        match step {
            Step::Field(name) => {
                DataType::Struct(Fields::from(vec![Field::new(name, inner, true)]))
            }
            Step::Each => DataType::List(Arc::new(Field::new(ELEMENT, inner, false))),
        }
    }
}

/// The node at a path, made on the way. A list that is exploded is gone into.
fn reach<'n>(node: &'n mut Node, path: &[String]) -> Result<&'n mut Node, String> {
    let mut node = node;
    for name in path {
        let inner = match node {
            Node::List(inner) => &mut **inner,
            node => node,
        };
        let Node::Object(members) = inner else {
            return Err(format!("`{}` goes on below a value of another column", path.join(".")));
        };
        let at = members.iter().position(|(known, _)| known == name);
        let at = at.unwrap_or_else(|| {
            members.push((name.clone(), Node::Object(Vec::new())));
            members.len() - 1
        });
        node = &mut members[at].1;
    }
    Ok(node)
}

/// Which of the lists, that come in order, something is in: the deepest. A value may be the list's elements.
fn place(lists: &[Vec<String>], path: &[String], or_equal: bool) -> Place {
    let mut found = Place { scope: 0, members: path.to_vec() };
    let mut deepest = 0;
    for (number, list) in lists.iter().enumerate() {
        let is_in = path.starts_with(list) && (or_equal || path.len() > list.len());
        if is_in && list.len() > deepest {
            deepest = list.len();
            found = Place { scope: number + 1, members: path[list.len()..].to_vec() };
        }
    }
    found
}

fn data_type(node: &Node) -> DataType {
    match node {
        Node::Leaf => DataType::Utf8,
        Node::Object(members) => {
            let fields = members.iter().map(|(name, node)| Field::new(name, data_type(node), true));
            DataType::Struct(fields.collect())
        }
        Node::List(inner) => DataType::List(Arc::new(Field::new(ELEMENT, data_type(inner), true))),
    }
}
