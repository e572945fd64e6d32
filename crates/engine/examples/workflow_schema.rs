//! Prints the JSON Schema of workflow definitions: docs/workflow.schema.json.

fn main() {
    println!("{:#}", meshhook_engine::definition::schema());
}
