//! Trees out of choices: mostly well typed, so that they come to values, now and then not, so that
//! they come to errors; over the inputs of [`crate::world`].

use super::Tree;
use crate::choices::Choices;

/// What a tree is meant to come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Num,
    Text,
    Bool,
    /// A list of numbers.
    Nums,
    /// A list of strings.
    Texts,
    /// A list of `{name, age}`.
    Rows,
    /// One of them.
    Row,
    Nil,
}

const KINDS: [Kind; 8] =
    [Kind::Num, Kind::Text, Kind::Bool, Kind::Nums, Kind::Texts, Kind::Rows, Kind::Row, Kind::Nil];
const INTS: [i64; 14] =
    [0, 1, 2, 3, -1, 7, 10, 63, -64, 1_000, 9_007_199_254_740_993, i64::MAX, -i64::MAX, 1 << 60];
const FLOATS: [f64; 9] = [0.5, 1.0, 2.5, -0.5, 0.0, 1e15, 1_152_921_504_606_846_976.0, 1e300, -2.0];
const WORDS: [&str; 10] = ["", "a", "b", "ab", "x", "Ann", "é", "a,b", " a ", "12"];
const PATTERNS: [&str; 5] = ["^a", "b$", "[a-x]+", "é", "^$"];

/// Grows one tree.
pub struct Grower<'g, 'b> {
    choices: &'g mut Choices<'b>,
    /// Variables that are visible, and what they are.
    vars: Vec<(String, Kind)>,
    /// Elements of the predicates around, and whether each has `#acc`, a number.
    elements: Vec<(Kind, bool)>,
    names: usize,
}

impl<'g, 'b> Grower<'g, 'b> {
    /// One that `choices` steer.
    pub fn new(choices: &'g mut Choices<'b>) -> Self {
        Self { choices, vars: Vec::new(), elements: Vec::new(), names: 0 }
    }

    /// A tree of any kind.
    pub fn any(&mut self, depth: usize) -> Tree {
        let kind = *self.choices.one_of(&KINDS);
        self.tree(kind, depth)
    }

    /// A tree that mostly comes to `kind`, of at most about `depth` levels.
    pub fn tree(&mut self, kind: Kind, depth: usize) -> Tree {
        let kind = if self.choices.once_in(40) { *self.choices.one_of(&KINDS) } else { kind };
        if depth == 0 || self.choices.is_used_up() {
            return self.leaf(kind);
        }
        match self.choices.below(12) {
            0 => self.leaf(kind),
            1 => self.binding(kind, depth),
            2 => self.choice(kind, depth),
            3 => self.coalesce(kind, depth),
            4 => self.of_any_list(kind, depth),
            _ => self.own(kind, depth),
        }
    }

    fn boxed(&mut self, kind: Kind, depth: usize) -> Box<Tree> {
        Box::new(self.tree(kind, depth.saturating_sub(1)))
    }

    /// A variable, an element, a literal or an input.
    fn leaf(&mut self, kind: Kind) -> Tree {
        let fitting: Vec<&(String, Kind)> = self.vars.iter().filter(|(_, of)| *of == kind).collect();
        if !fitting.is_empty() && self.choices.below(2) == 1 {
            return Tree::Var(self.choices.one_of(&fitting).0.clone());
        }
        match self.elements.last() {
            Some((element, _)) if *element == kind && self.choices.below(3) > 0 => return Tree::Element,
            Some((Kind::Row, _)) if matches!(kind, Kind::Num | Kind::Text) => {
                return field(Tree::Element, if kind == Kind::Num { "age" } else { "name" });
            }
            Some((_, true)) if kind == Kind::Num && self.choices.below(2) == 1 => return Tree::Accumulator,
            Some(_) if kind == Kind::Num && self.choices.once_in(4) => return Tree::Position,
            _ => {}
        }
        let input = |name| field(Tree::Root("inputs"), name);
        match (kind, self.choices.below(4)) {
            (Kind::Num, 0) => Tree::Float(*self.choices.one_of(&FLOATS)),
            (Kind::Num, 1) => input(["n", "half", "zero", "big", "exact"][self.choices.below(5)]),
            (Kind::Num, _) => Tree::Int(*self.choices.one_of(&INTS)),
            (Kind::Text, 0) => input(["name", "empty"][self.choices.below(2)]),
            (Kind::Text, 1) => field(Tree::Root("data"), "k"),
            (Kind::Text, _) => Tree::Text((*self.choices.one_of(&WORDS)).to_owned()),
            (Kind::Bool, 0) => input("flag"),
            (Kind::Bool, way) => Tree::Bool(way == 1),
            (Kind::Nums, 0) => input("nums"),
            (Kind::Nums, 1) => {
                let body = field(Tree::Step("fetch"), ["body", "output"][self.choices.below(2)]);
                field(
                    if body == field(Tree::Step("fetch"), "output") { field(body, "body") } else { body },
                    "items",
                )
            }
            (Kind::Nums, _) => {
                let count = self.choices.below(4);
                Tree::List((0..count).map(|_| Tree::Int(*self.choices.one_of(&INTS))).collect())
            }
            (Kind::Texts, 0) => input("none"),
            (Kind::Texts, 1) => input("tags"),
            (Kind::Texts, _) => {
                let count = self.choices.below(4);
                Tree::List(
                    (0..count).map(|_| Tree::Text((*self.choices.one_of(&WORDS)).to_owned())).collect(),
                )
            }
            (Kind::Rows, _) => input("users"),
            (Kind::Row, way) => self.row(way),
            (Kind::Nil, 0) => input("nil"),
            (Kind::Nil, 1) => field(Tree::Step("fetch"), "nothing"),
            (Kind::Nil, 2) => Tree::Step("skipped"),
            (Kind::Nil, _) => Tree::Nil,
        }
    }

    fn row(&mut self, way: usize) -> Tree {
        let users = Box::new(field(Tree::Root("inputs"), "users"));
        match way {
            0 => Tree::At { base: users, index: Box::new(Tree::Int(1)), optional: false },
            1 => Tree::Call("first", vec![*users]),
            _ => {
                let (name, age) = (self.leaf(Kind::Text), self.leaf(Kind::Num));
                Tree::Map(vec![("name".to_owned(), name), ("age".to_owned(), age)])
            }
        }
    }

    fn binding(&mut self, kind: Kind, depth: usize) -> Tree {
        let bound = *self.choices.one_of(&KINDS);
        let value = self.boxed(bound, depth);
        self.names += 1;
        let name = format!("v{}", self.names);
        self.vars.push((name.clone(), bound));
        let body = self.boxed(kind, depth);
        self.vars.pop();
        Tree::Let(name, value, body)
    }

    fn choice(&mut self, kind: Kind, depth: usize) -> Tree {
        let test = self.boxed(Kind::Bool, depth);
        let is_short = kind == Kind::Bool && self.choices.below(2) == 1;
        let yes = if is_short { test.clone() } else { self.boxed(kind, depth) };
        Tree::Choice(test, yes, self.boxed(kind, depth))
    }

    /// Something that may be missing, and what stands for it.
    fn coalesce(&mut self, kind: Kind, depth: usize) -> Tree {
        let optional = self.choices.below(2) == 1;
        let missing = match self.choices.below(7) {
            0 => Tree::Unknown,
            1 => Tree::Field { base: Box::new(Tree::Step("pending")), name: "x".to_owned(), optional },
            2 => Tree::Field { base: self.boxed(Kind::Nil, depth), name: "x".to_owned(), optional },
            3 => Tree::At { base: self.boxed(Kind::Nums, depth), index: Box::new(Tree::Int(99)), optional },
            4 => {
                field(Tree::Field { base: self.boxed(Kind::Row, depth), name: "y".to_owned(), optional }, "z")
            }
            5 => *self.boxed(Kind::Nil, depth),
            _ => *self.boxed(kind, depth),
        };
        Tree::Binary("??", Box::new(missing), self.boxed(kind, depth))
    }

    /// A value out of some list: by place, by search, by folding.
    fn of_any_list(&mut self, kind: Kind, depth: usize) -> Tree {
        let list = match kind {
            Kind::Num => Kind::Nums,
            Kind::Text => Kind::Texts,
            Kind::Row => Kind::Rows,
            Kind::Bool | Kind::Nums | Kind::Texts | Kind::Rows | Kind::Nil => return self.own(kind, depth),
        };
        let base = self.boxed(list, depth);
        match self.choices.below(6) {
            0 => Tree::Call(["first", "last"][self.choices.below(2)], vec![*base]),
            1 => Tree::Call("get", vec![*base, Tree::Int(self.choices.below(4) as i64 - 2)]),
            2 => {
                let name = ["find", "findLast"][self.choices.below(2)];
                let test = self.predicate(kind, false, Kind::Bool, depth);
                Tree::Call(name, vec![*base, test])
            }
            3 if kind == Kind::Num => {
                let fold = self.predicate(kind, true, kind, depth);
                let initial = self.leaf(kind);
                let with_initial = self.choices.below(3) > 0;
                Tree::Call(
                    "reduce",
                    if with_initial { vec![*base, fold, initial] } else { vec![*base, fold] },
                )
            }
            _ => {
                let index = if self.choices.below(3) == 0 {
                    self.boxed(Kind::Num, depth)
                } else {
                    Box::new(Tree::Int(self.choices.below(5) as i64 - 2))
                };
                Tree::At { base, index, optional: self.choices.once_in(5) }
            }
        }
    }

    fn predicate(&mut self, element: Kind, has_acc: bool, result: Kind, depth: usize) -> Tree {
        self.elements.push((element, has_acc));
        let body = self.tree(result, depth.saturating_sub(1));
        self.elements.pop();
        body
    }

    fn own(&mut self, kind: Kind, depth: usize) -> Tree {
        match kind {
            Kind::Num => self.number(depth),
            Kind::Text => self.text(depth),
            Kind::Bool => self.bool(depth),
            Kind::Nums | Kind::Texts | Kind::Rows => self.list(kind, depth),
            Kind::Row | Kind::Nil => self.leaf(kind),
        }
    }

    fn number(&mut self, depth: usize) -> Tree {
        match self.choices.below(14) {
            0..=4 => {
                let operator = ["+", "-", "*", "/", "%", "**", "+", "-"][self.choices.below(8)];
                Tree::Binary(operator, self.boxed(Kind::Num, depth), self.boxed(Kind::Num, depth))
            }
            5 => Tree::Unary(["-", "+"][self.choices.below(2)], self.boxed(Kind::Num, depth)),
            6 => {
                let name = ["abs", "ceil", "floor", "round", "int", "float", "bitnot"][self.choices.below(7)];
                Tree::Call(name, vec![*self.boxed(Kind::Num, depth)])
            }
            7 => {
                let name = ["bitand", "bitor", "bitxor", "bitnand", "bitshl", "bitshr", "bitushr"];
                let name = name[self.choices.below(7)];
                Tree::Call(name, vec![*self.boxed(Kind::Num, depth), *self.boxed(Kind::Num, depth)])
            }
            8 => {
                let of = [Kind::Nums, Kind::Texts, Kind::Rows, Kind::Text, Kind::Row][self.choices.below(5)];
                Tree::Call("len", vec![*self.boxed(of, depth)])
            }
            9 => {
                let name = ["min", "max", "mean", "median", "sum"][self.choices.below(5)];
                Tree::Call(name, vec![*self.boxed(Kind::Nums, depth)])
            }
            10 => {
                let name = ["sum", "count", "findIndex", "findLastIndex"][self.choices.below(4)];
                let (list, element) = self.listed();
                let result = if name == "sum" { Kind::Num } else { Kind::Bool };
                let list = *self.boxed(list, depth);
                Tree::Call(name, vec![list, self.predicate(element, false, result, depth)])
            }
            11 => {
                let name = ["indexOf", "lastIndexOf"][self.choices.below(2)];
                Tree::Call(name, vec![*self.boxed(Kind::Text, depth), *self.boxed(Kind::Text, depth)])
            }
            12 => Tree::Call(["int", "float"][self.choices.below(2)], vec![*self.boxed(Kind::Text, depth)]),
            _ => Tree::Field { base: self.boxed(Kind::Row, depth), name: "age".to_owned(), optional: false },
        }
    }

    /// A kind of list and of its elements.
    fn listed(&mut self) -> (Kind, Kind) {
        *self.choices.one_of(&[(Kind::Nums, Kind::Num), (Kind::Texts, Kind::Text), (Kind::Rows, Kind::Row)])
    }

    fn text(&mut self, depth: usize) -> Tree {
        let one = |grower: &mut Self| *grower.boxed(Kind::Text, depth);
        match self.choices.below(12) {
            0 | 1 => Tree::Binary("+", self.boxed(Kind::Text, depth), self.boxed(Kind::Text, depth)),
            2 => Tree::Call(["upper", "lower", "trim"][self.choices.below(3)], vec![one(self)]),
            3 => {
                let name = ["trimPrefix", "trimSuffix", "trim"][self.choices.below(3)];
                Tree::Call(name, vec![one(self), one(self)])
            }
            4 => {
                let mut arguments = vec![one(self), one(self), one(self)];
                if self.choices.below(2) == 1 {
                    arguments.push(Tree::Int(self.choices.below(4) as i64 - 1));
                }
                Tree::Call("replace", arguments)
            }
            5 => Tree::Call("repeat", vec![one(self), Tree::Int(self.choices.below(5) as i64 - 1)]),
            6 => {
                let kind = *self.choices.one_of(&KINDS);
                Tree::Call(
                    ["string", "toJSON", "type"][self.choices.below(3)],
                    vec![*self.boxed(kind, depth)],
                )
            }
            7 => Tree::Call("join", vec![*self.boxed(Kind::Texts, depth), one(self)]),
            8 => {
                let ends = [0; 2].map(|_| {
                    let at = self.choices.below(8) as i64 - 3;
                    (self.choices.below(3) > 0).then(|| Box::new(Tree::Int(at)))
                });
                let [from, to] = ends;
                Tree::Slice { base: self.boxed(Kind::Text, depth), from, to }
            }
            9 => Tree::At {
                base: self.boxed(Kind::Text, depth),
                index: Box::new(Tree::Int(0)),
                optional: false,
            },
            10 => Tree::Field { base: self.boxed(Kind::Row, depth), name: "name".to_owned(), optional: true },
            _ => Tree::Call("toBase64", vec![one(self)]),
        }
    }

    fn bool(&mut self, depth: usize) -> Tree {
        let two = |grower: &mut Self, operators: &[&'static str], kind| {
            let operator = *grower.choices.one_of(operators);
            Tree::Binary(operator, grower.boxed(kind, depth), grower.boxed(kind, depth))
        };
        match self.choices.below(12) {
            0 | 1 => two(self, &["and", "or"], Kind::Bool),
            2 => Tree::Unary("not", self.boxed(Kind::Bool, depth)),
            3 => {
                let kind = *self.choices.one_of(&KINDS);
                two(self, &["==", "!="], kind)
            }
            4 => {
                let kind = [Kind::Num, Kind::Text][self.choices.below(2)];
                two(self, &["<", "<=", ">", ">="], kind)
            }
            5 => {
                let first = self.boxed(Kind::Num, depth);
                let rest = [0; 2].map(|_| {
                    let operator = ["<", "<=", ">", ">="][self.choices.below(4)];
                    (operator, *self.boxed(Kind::Num, depth))
                });
                Tree::Chain(first, rest.into())
            }
            6 => two(self, &["contains", "startsWith", "endsWith"], Kind::Text),
            7 => {
                let pattern = Tree::Text((*self.choices.one_of(&PATTERNS)).to_owned());
                Tree::Binary("matches", self.boxed(Kind::Text, depth), Box::new(pattern))
            }
            8 => {
                let (list, element) = self.listed();
                let value = self.boxed(element, depth);
                Tree::Binary("in", value, self.boxed(list, depth))
            }
            9 => Tree::Binary("in", self.boxed(Kind::Text, depth), self.boxed(Kind::Row, depth)),
            10 => {
                let name = ["all", "any", "one", "none"][self.choices.below(4)];
                let (list, element) = self.listed();
                let list = *self.boxed(list, depth);
                Tree::Call(name, vec![list, self.predicate(element, false, Kind::Bool, depth)])
            }
            _ => {
                let name = ["hasPrefix", "hasSuffix"][self.choices.below(2)];
                Tree::Call(name, vec![*self.boxed(Kind::Text, depth), *self.boxed(Kind::Text, depth)])
            }
        }
    }

    fn list(&mut self, kind: Kind, depth: usize) -> Tree {
        let element = match kind {
            Kind::Nums => Kind::Num,
            Kind::Texts => Kind::Text,
            _ => Kind::Row,
        };
        match self.choices.below(12) {
            0 => Tree::List(vec![*self.boxed(element, depth), *self.boxed(element, depth)]),
            1 => {
                let test = self.predicate(element, false, Kind::Bool, depth);
                Tree::Call("filter", vec![*self.boxed(kind, depth), test])
            }
            2 => {
                let (list, of) = self.listed();
                let list = *self.boxed(list, depth);
                Tree::Call("map", vec![list, self.predicate(of, false, element, depth)])
            }
            3 => Tree::Call(
                ["reverse", "uniq", "flatten"][self.choices.below(3)],
                vec![*self.boxed(kind, depth)],
            ),
            4 => Tree::Call("concat", vec![*self.boxed(kind, depth), *self.boxed(kind, depth)]),
            5 => Tree::Call("take", vec![*self.boxed(kind, depth), Tree::Int(self.choices.below(4) as i64)]),
            6 => self.sorted(kind, element, depth),
            7 => {
                let to = Tree::Int(self.choices.below(4) as i64 - 2);
                Tree::Slice { base: self.boxed(kind, depth), from: None, to: Some(Box::new(to)) }
            }
            8 if kind == Kind::Nums => {
                let from = Tree::Int(self.choices.below(6) as i64 - 3);
                Tree::Binary("..", Box::new(from), Box::new(Tree::Int(self.choices.below(5) as i64)))
            }
            8 if kind == Kind::Texts => {
                let mut arguments = vec![*self.boxed(Kind::Text, depth), *self.boxed(Kind::Text, depth)];
                if self.choices.below(2) == 1 {
                    arguments.push(Tree::Int(self.choices.below(5) as i64 - 1));
                }
                Tree::Call(["split", "splitAfter"][self.choices.below(2)], arguments)
            }
            9 if kind == Kind::Texts => {
                let grouped = self.grouped(depth);
                Tree::Call("keys", vec![grouped])
            }
            9 => Tree::Call("flatten", vec![Tree::Call("values", vec![self.grouped(depth)])]),
            10 => Tree::Call("flatten", vec![Tree::Call("toPairs", vec![*self.boxed(Kind::Row, depth)])]),
            _ => self.leaf(kind),
        }
    }

    fn sorted(&mut self, kind: Kind, element: Kind, depth: usize) -> Tree {
        let list = *self.boxed(kind, depth);
        let order = Tree::Text(["asc", "desc"][self.choices.below(2)].to_owned());
        if element != Kind::Row && self.choices.below(2) == 1 {
            return Tree::Call("sort", vec![list, order]);
        }
        let by = [Kind::Num, Kind::Text][self.choices.below(2)];
        Tree::Call("sortBy", vec![list, self.predicate(element, false, by, depth), order])
    }

    fn grouped(&mut self, depth: usize) -> Tree {
        let (list, element) = self.listed();
        let list = *self.boxed(list, depth);
        let by = [Kind::Num, Kind::Text, Kind::Bool][self.choices.below(3)];
        Tree::Call("groupBy", vec![list, self.predicate(element, false, by, depth)])
    }
}

fn field(base: Tree, name: &str) -> Tree {
    Tree::Field { base: Box::new(base), name: name.to_owned(), optional: false }
}
