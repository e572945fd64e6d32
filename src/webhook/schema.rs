//! The JSON Schemas of endpoints, compiled once a backend.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use meshhook_engine::contract::Contract;
use meshhook_engine::definition::Problem;

thread_local! {
    /// Compiled schemas by their text; none for one that refuses nothing.
    static COMPILED: RefCell<HashMap<String, Rc<Option<Contract>>>> = RefCell::new(HashMap::new());
}

/// Most compiled schemas a backend keeps.
const MAX_COMPILED: usize = 200;

/// A schema, compiled; or its faults.
pub(super) fn compiled(schema: &str) -> Result<Rc<Option<Contract>>, Vec<Problem>> {
    if let Some(contract) = COMPILED.with_borrow(|cache| cache.get(schema).cloned()) {
        return Ok(contract);
    }
    let contract = Rc::new(Contract::parse(schema)?);
    COMPILED.with_borrow_mut(|cache| {
        if cache.len() >= MAX_COMPILED {
            cache.clear();
        }
        cache.insert(schema.to_owned(), Rc::clone(&contract));
    });
    Ok(contract)
}
