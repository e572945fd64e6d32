//! Where calls may go. A destination is vetted when it is known as an address, and exactly that address is dialled:
//! no name, no odd spelling and no redirect leads anywhere else, and what a name says later changes nothing.
//!
//! [`ranges`] knows the addresses, [`rules`] judge, [`policy`] says which rules hold for which project, [`names`] looks
//! up, and the [`connector`] puts them before every connection. What is set for single hosts is in [`hosts`], and how
//! they prove who they are, and who calls them, in [`tls`]; a [`proxy`] may stand between, and a
//! [`way`] knows where it ends all the same. [`machine`] knows the addresses of the machine itself.

pub mod connector;
pub mod hosts;
pub mod machine;
pub mod names;
pub mod policy;
pub mod proxy;
pub mod ranges;
pub mod rules;
pub mod tls;
pub mod way;
