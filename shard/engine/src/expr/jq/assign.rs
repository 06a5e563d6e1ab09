//! Assignment through what is not there: `.a.b = 1` on null or `{}`, `.[3] = 1` on a short array.
//!
//! jq makes the objects and arrays on the way; the crate refuses. So the left sides of `=`, `|=`,
//! `+=` and their kin are rewritten: before each key that does not depend on the input (a literal
//! or a variable) goes a native filter that makes room for it. Other keys stay as they are.

use jaq_core::box_iter::box_once;
use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Def, Term};
use jaq_core::native::Fun;
use jaq_core::path::{Part, Path};
use jaq_core::{Bind, Native};
use jaq_json::{Map, Num, Val};

use super::run::Data;

/// No name that an author can write.
const ROOM: &str = "!room";

type Source<'s> = Term<&'s str>;

/// `term` with room made on the left sides of all assignments in it.
pub(super) fn with_room<'s>(term: Source<'s>) -> Source<'s> {
    let go = with_room;
    let boxed = |term: Box<Source<'s>>| Box::new(with_room(*term));
    match term {
        Term::BinOp(left, op, right) => {
            let left = with_room(*left);
            let assigns = matches!(
                op,
                BinaryOp::Assign | BinaryOp::Update | BinaryOp::UpdateMath(_) | BinaryOp::UpdateAlt
            );
            let left = if assigns { roomy(left) } else { left };
            Term::BinOp(Box::new(left), op, boxed(right))
        }
        Term::Str(format, parts) => {
            Term::Str(format, parts.into_iter().map(|part| in_string(part, go)).collect())
        }
        Term::Arr(inner) => Term::Arr(inner.map(boxed)),
        Term::Obj(entries) => {
            Term::Obj(entries.into_iter().map(|(key, value)| (go(key), value.map(go))).collect())
        }
        Term::Neg(inner) => Term::Neg(boxed(inner)),
        Term::Label(label, inner) => Term::Label(label, boxed(inner)),
        Term::Fold(name, list, pattern, args) => {
            Term::Fold(name, boxed(list), pattern, args.into_iter().map(go).collect())
        }
        Term::TryCatch(inner, catch) => Term::TryCatch(boxed(inner), catch.map(boxed)),
        Term::IfThenElse(branches, otherwise) => {
            let branches = branches.into_iter().map(|(test, then)| (go(test), go(then)));
            Term::IfThenElse(branches.collect(), otherwise.map(boxed))
        }
        Term::Def(defs, inner) => {
            let defs = defs.into_iter().map(|def| Def { body: go(def.body), ..def });
            Term::Def(defs.collect(), boxed(inner))
        }
        Term::Call(name, args) => Term::Call(name, args.into_iter().map(go).collect()),
        Term::Path(head, path) => {
            let parts = path.0.into_iter().map(|(part, opt)| {
                let part = match part {
                    Part::Index(index) => Part::Index(go(index)),
                    Part::Range(from, to) => Part::Range(from.map(go), to.map(go)),
                };
                (part, opt)
            });
            Term::Path(boxed(head), Path(parts.collect()))
        }
        Term::Id | Term::Recurse | Term::Num(_) | Term::Break(_) | Term::Var(_) => term,
    }
}

fn in_string<'s>(
    part: StrPart<&'s str, Source<'s>>,
    go: impl Fn(Source<'s>) -> Source<'s>,
) -> StrPart<&'s str, Source<'s>> {
    match part {
        StrPart::Term(term) => StrPart::Term(go(term)),
        StrPart::Str(_) | StrPart::Char(_) => part,
    }
}

/// A left side, with room made before its keys.
fn roomy(term: Source<'_>) -> Source<'_> {
    match term {
        Term::Path(head, path) => path.0.into_iter().fold(roomy(*head), |head, (part, opt)| {
            let head = match &part {
                Part::Index(key) if is_fixed(key) => {
                    let room = Term::Call(ROOM, vec![key.clone()]);
                    Term::BinOp(Box::new(head), BinaryOp::Pipe(None), Box::new(room))
                }
                Part::Index(_) | Part::Range(..) => head,
            };
            step(head, part, opt)
        }),
        Term::BinOp(left, op @ (BinaryOp::Pipe(None) | BinaryOp::Comma | BinaryOp::Alt), right) => {
            Term::BinOp(Box::new(roomy(*left)), op, Box::new(roomy(*right)))
        }
        other => other,
    }
}

/// `head` followed by one part. Parts of one path stay together where no room was made between
/// them, since a key that depends on the input means the input of the whole path.
fn step<'s>(head: Source<'s>, part: Part<Source<'s>>, opt: jaq_core::path::Opt) -> Source<'s> {
    match head {
        Term::Path(before, mut path) => {
            path.0.push((part, opt));
            Term::Path(before, path)
        }
        head => Term::Path(Box::new(head), Path(vec![(part, opt)])),
    }
}

/// Whether a key is the same whatever the input is.
fn is_fixed(key: &Source<'_>) -> bool {
    match key {
        Term::Str(None, parts) => parts.iter().all(|part| !matches!(part, StrPart::Term(_))),
        Term::Num(_) | Term::Var(_) => true,
        _ => false,
    }
}

/// The native filter: null becomes the container that the key fits, an array becomes long enough.
pub(super) fn native() -> Fun<Data> {
    let filter = Native::<Data>::new(|mut cv| {
        let key = cv.0.pop_var();
        box_once(Ok(room(cv.1, &key)))
    })
    .with_paths(|mut cv| {
        let key = cv.0.pop_var();
        let (value, path) = cv.1;
        box_once(Ok((room(value, &key), path)))
    })
    .with_update(|mut cv, update| {
        let key = cv.0.pop_var();
        update(room(cv.1, &key))
    });
    (ROOM, Box::new([Bind::Var(())]), filter)
}

fn room(value: Val, key: &Val) -> Val {
    match (value, key) {
        (Val::Null, Val::TStr(_)) => Val::obj(Map::default()),
        (Val::Null, Val::Num(Num::Int(at))) => longer(Vec::new(), *at),
        (Val::Arr(items), Val::Num(Num::Int(at)))
            if usize::try_from(*at).is_ok_and(|at| at >= items.len()) =>
        {
            longer(items.to_vec(), *at)
        }
        (value, _) => value,
    }
}

fn longer(mut items: Vec<Val>, at: isize) -> Val {
    let len = usize::try_from(at).map_or(items.len(), |at| at.saturating_add(1));
    items.resize(len, Val::Null);
    items.into_iter().collect()
}
