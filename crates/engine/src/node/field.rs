//! A field of `with` that is a template: read, looked through for references, rendered, always under its own name.

use super::{Context, Reference, located, references};
use crate::definition::{Fields, MAX_NAME_BYTES, Problems};
use crate::error::ErrorInfo;
use crate::expr::Budget;
use crate::json::{Json, MAX_DOCUMENT_DEPTH};
use crate::template::{Rendered, Template};

/// A template and the name of its field.
#[derive(Debug)]
pub(super) struct TemplateField {
    name: &'static str,
    template: Template,
}

impl TemplateField {
    /// Reads the field, if it is there. Complains about `$resume`: nothing is sent outside from here.
    pub(super) fn read(with: &mut Fields, name: &'static str, problems: &mut Problems) -> Option<Self> {
        let field = Self::sent(with, name, problems)?;
        for (below, _) in field.template.resumes() {
            let message =
                "$resume is only known in the fields of http and task nodes, which are sent to somebody";
            problems.add(format!("{}{below}", with.at(name)), "resume", message);
        }
        Some(field)
    }

    /// Reads a field that is sent to somebody, if it is there. Complains about `$secrets`.
    pub(super) fn sent(with: &mut Fields, name: &'static str, problems: &mut Problems) -> Option<Self> {
        let field = Self::called(with, name, problems)?;
        for (below, _) in field.template.secrets() {
            let message =
                "$secrets is only known in the fields of http nodes: only the sidecar opens secrets";
            problems.add(format!("{}{below}", with.at(name)), "secret", message);
        }
        Some(field)
    }

    /// Reads a field of a call, if it is there: secrets are put in by whoever makes it.
    pub(super) fn called(with: &mut Fields, name: &'static str, problems: &mut Problems) -> Option<Self> {
        let field = Self { name, template: with.template(name, problems)? };
        for (below, secret) in field.template.secrets() {
            if secret.len() > MAX_NAME_BYTES {
                let message = format!("the name of a secret has at most {MAX_NAME_BYTES} bytes");
                problems.add(format!("{}{below}", with.at(name)), "secret", message);
            }
        }
        Some(field)
    }

    /// Reads a field that has to be there.
    pub(super) fn required(with: &mut Fields, name: &'static str, problems: &mut Problems) -> Option<Self> {
        with.required(name, problems)?;
        Self::read(with, name, problems)
    }

    /// The value, where there is no hole in it.
    pub(super) fn as_const(&self) -> Option<&Json> {
        self.template.as_const()
    }

    /// The field's name.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The paths its expressions read.
    pub(super) fn references(&self) -> Vec<Reference> {
        let holes = self.template.exprs();
        holes.iter().flat_map(|(below, expr)| references(&format!("/{}{below}", self.name), expr)).collect()
    }

    /// The nodes whose resume URLs it holds, each with where below `with`.
    pub(super) fn resumes(&self) -> Vec<(String, &str)> {
        let holes = self.template.resumes().into_iter();
        holes.map(|(below, node)| (format!("/{}{below}", self.name), node)).collect()
    }

    /// The secrets it needs, each with where below `with`.
    pub(super) fn secrets(&self) -> Vec<(String, &str)> {
        let holes = self.template.secrets().into_iter();
        holes.map(|(below, name)| (format!("/{}{below}", self.name), name)).collect()
    }

    /// The value of this firing.
    pub(super) fn render(&self, context: &Context, budget: &mut Budget) -> Result<Json, ErrorInfo> {
        self.render_called(context, budget).map(|rendered| rendered.value)
    }

    /// The value of this firing; strings with secrets are null in it.
    pub(super) fn render_called(
        &self,
        context: &Context,
        budget: &mut Budget,
    ) -> Result<Rendered, ErrorInfo> {
        let place = format!("/with/{}", self.name);
        match self.template.render_sent(context.root, budget, &|node| context.placeholders.of(node)) {
            Ok(rendered) if rendered.value.is_deeper_than(MAX_DOCUMENT_DEPTH) => {
                let message =
                    format!("the value is nested deeper than {MAX_DOCUMENT_DEPTH} levels (at {place})");
                Err(ErrorInfo::new("expr.too_complex", message).retryable(false))
            }
            Ok(rendered) => Ok(rendered),
            Err((below, error)) => Err(located(&error, &format!("{place}{below}"))),
        }
    }
}

/// The paths that the expressions of several fields read.
pub(super) fn all_references<'a>(fields: impl IntoIterator<Item = &'a TemplateField>) -> Vec<Reference> {
    fields.into_iter().flat_map(TemplateField::references).collect()
}

/// The nodes whose resume URLs several fields hold.
pub(super) fn all_resumes<'a>(fields: impl IntoIterator<Item = &'a TemplateField>) -> Vec<(String, &'a str)> {
    fields.into_iter().flat_map(TemplateField::resumes).collect()
}

/// What an `input` comes to: without one, an empty object.
pub(super) fn input(field: Option<&TemplateField>, context: &Context) -> Result<Json, ErrorInfo> {
    match field {
        Some(field) => field.render(context, &mut Budget::node()),
        None => Ok(Json::object([] as [(&str, Json); 0])),
    }
}
