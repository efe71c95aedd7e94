/** The processor's parameters as a form, from their JSON Schema. Only what differs from the default is sent. */

import { make } from "./dom.js";
import { sentence } from "./words.js";

export function mount(root, api) {
  const { properties, required = [] } = api.state.processor.params_schema;
  const fields = Object.entries(properties).map(([name, schema]) => field(name, schema, required.includes(name), api));
  const known = fields.filter(Boolean);
  if (known.length === 0) return;
  root.append(make("details", { className: "params", open: required.length > 0 }, make("summary", {}, "Options"), ...known));
}

function field(name, schema, required, api) {
  const label = schema.title ?? sentence(name);
  const id = `param-${name}`;
  const input = control(schema);
  if (!input) return null;
  Object.assign(input, { id, required });
  const output = input.type === "range" ? make("output", { htmlFor: id }, input.value) : "";
  input.addEventListener("input", () => {
    if (output) output.textContent = input.value;
    const value = valueOf(input, schema);
    const params = { ...api.state.params };
    if (value === undefined || value === schema.default) delete params[name];
    else params[name] = value;
    api.state.params = params;
  });
  const hint = schema.description ? make("small", {}, schema.description) : "";
  return make("p", { className: "param" }, make("label", { htmlFor: id }, label), input, output, hint);
}

function control(schema) {
  const { type, enum: choices, minimum, maximum, multipleOf } = schema;
  const value = schema.default ?? "";
  if (choices) {
    const options = choices.map((choice) => make("option", { value: JSON.stringify(choice), selected: choice === schema.default }, sentence(choice)));
    return make("select", {}, ...("default" in schema ? [] : [make("option", { value: "" }, "Automatic")]), ...options);
  }
  if (type === "boolean") return make("input", { type: "checkbox", checked: schema.default === true });
  if (type === "number" || type === "integer") {
    const step = multipleOf ?? (type === "integer" ? 1 : "any");
    if (minimum !== undefined && maximum !== undefined && value !== "") {
      const fine = step === "any" ? (maximum - minimum) / 100 : step;
      return make("input", { type: "range", min: minimum, max: maximum, step: fine, value });
    }
    return make("input", { type: "number", min: minimum ?? "", max: maximum ?? "", step, value, inputMode: "decimal" });
  }
  if (type === "string") return make("input", { type: "text", maxLength: schema.maxLength ?? 1000, value });
  return null; // an object or a list: for programs
}

function valueOf(input, { type, enum: choices }) {
  if (choices) return input.value === "" ? undefined : JSON.parse(input.value);
  if (type === "boolean") return input.checked;
  if (input.value === "" || !input.checkValidity()) return undefined;
  return type === "string" ? input.value : Number(input.value);
}
