//! What names mean where.

use std::rc::Rc;

use jaq_core::load::parse::Def;

use super::compile::Source;

/// A name in scope.
pub(super) enum Binding<'t> {
    Var(&'t str, usize),
    Def(&'t Def<&'t str, Source<'t>>),
    /// A parameter stands for the caller's argument in the caller's scope.
    Param(&'t str, &'t Source<'t>, Scope<'t>),
}

pub(super) struct Entry<'t> {
    pub binding: Binding<'t>,
    pub parent: Option<Rc<Entry<'t>>>,
}

/// The functions that are being expanded, so that none calls itself.
pub(super) struct Active<'t> {
    pub def: &'t Def<&'t str, Source<'t>>,
    pub parent: Option<Rc<Active<'t>>>,
}

/// What names mean at some place.
#[derive(Clone, Default)]
pub(super) struct Scope<'t> {
    pub names: Option<Rc<Entry<'t>>>,
    pub active: Option<Rc<Active<'t>>>,
}

impl<'t> Scope<'t> {
    pub fn with(&self, binding: Binding<'t>) -> Scope<'t> {
        let parent = self.names.clone();
        Scope { names: Some(Rc::new(Entry { binding, parent })), active: self.active.clone() }
    }

    pub fn entries(&self) -> impl Iterator<Item = &Rc<Entry<'t>>> {
        std::iter::successors(self.names.as_ref(), |entry| entry.parent.as_ref())
    }

    pub fn var(&self, name: &str) -> Option<usize> {
        self.entries().find_map(|entry| match &entry.binding {
            Binding::Var(known, slot) if *known == name => Some(*slot),
            _ => None,
        })
    }

    pub fn is_active(&self, def: &Def<&'t str, Source<'t>>) -> bool {
        let all = std::iter::successors(self.active.as_ref(), |active| active.parent.as_ref());
        all.into_iter().any(|active| std::ptr::eq(active.def, def))
    }
}
