// Read the API's own description: what can be asked, with which parameters, and what comes back.

import { useEffect, useState } from "preact/hooks";

import { paths } from "../api.ts";
import { routes } from "../links.ts";
import { ApiError, request } from "../live.ts";
import { Badge, Card, Failure, Head, Loading, Table } from "../ui.tsx";

interface Schema {
  $ref?: string;
  type?: string;
  title?: string;
  description?: string;
  enum?: unknown[];
  const?: unknown;
  anyOf?: Schema[];
  items?: Schema;
  additionalProperties?: Schema | boolean;
  properties?: Record<string, Schema>;
  required?: string[];
  default?: unknown;
}

interface Parameter {
  name: string;
  in: string;
  required?: boolean;
  description?: string;
  schema?: Schema;
}

interface Operation {
  tags?: string[];
  description?: string;
  parameters?: Parameter[];
  requestBody?: { content: Record<string, { schema?: Schema }> };
  responses: Record<string, { description: string; content?: Record<string, { schema?: Schema }> }>;
}

interface Document {
  info: { description?: string; version: string };
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Schema> };
}

interface Entry {
  id: string;
  method: string;
  path: string;
  operation: Operation;
}

export default function ReferencePage() {
  const [found, setFound] = useState<Document>();
  const [error, setError] = useState<ApiError>();
  const load = () => {
    setError(undefined);
    request<Document>(paths.document()).then(setFound, (wrong: unknown) =>
      setError(wrong instanceof ApiError ? wrong : new ApiError(0, String(wrong))),
    );
  };
  useEffect(load, []);
  if (error) return <Failure error={error} retry={load} />;
  if (!found) return <Loading lines={10} />;
  return (
    <>
      <Head
        title="API"
        crumbs={[["Projects", routes.projects()]]}
        lead={found.info.description}
        meta={
          <>
            <span>version {found.info.version}</span>
            <a href={paths.document()}>OpenAPI document</a>
          </>
        }
      />
      <div class="stack">
        {[...grouped(found)].map(([tag, entries]) => (
          <Card key={tag} title={tag.charAt(0).toUpperCase() + tag.slice(1)}>
            <ul class="operations plain">
              {entries.map((entry) => (
                <li key={entry.id}>
                  <Described entry={entry} schemas={found.components.schemas} />
                </li>
              ))}
            </ul>
          </Card>
        ))}
      </div>
    </>
  );
}

function grouped(document: Document): Map<string, Entry[]> {
  const groups = new Map<string, Entry[]>();
  for (const [path, operations] of Object.entries(document.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const tag = operation.tags?.[0] ?? "other";
      const group = groups.get(tag) ?? [];
      groups.set(tag, [...group, { id: `${method} ${path}`, method, path, operation }]);
    }
  }
  return groups;
}

function Described({ entry, schemas }: { entry: Entry; schemas: Record<string, Schema> }) {
  const { method, path, operation } = entry;
  const [first, ...more] = (operation.description ?? "").split("\n\n");
  const body = Object.values(operation.requestBody?.content ?? {})[0]?.schema;
  const answer = Object.values(operation.responses["200"]?.content ?? {})[0]?.schema;
  const refusals = Object.entries(operation.responses).filter(([status]) => status !== "200");
  return (
    <details class="operation">
      <summary>
        <Badge tone={method === "get" ? "accent" : "warn"}>{method.toUpperCase()}</Badge> <code>{path}</code>
        <span class="soft small">{first}</span>
      </summary>
      <div class="stack tight">
        {more.map((text) => (
          <p key={text}>{text}</p>
        ))}
        {operation.parameters && (
          <Fields
            caption={`Parameters of ${entry.id}`}
            rows={operation.parameters.map((one) => ({
              name: one.name,
              type: typeOf(one.schema),
              note: [one.required ? "required" : "", one.description ?? one.schema?.description ?? ""].filter(Boolean).join(": "),
            }))}
          />
        )}
        {body && <Shape title="Takes" schema={body} schemas={schemas} />}
        {answer && <Shape title="Answers" schema={answer} schemas={schemas} />}
        {refusals.length > 0 && (
          <p class="soft small">
            Or problem+json: {refusals.map(([status, { description }]) => `${status} ${description.toLowerCase()}`).join("; ")}.
          </p>
        )}
      </div>
    </details>
  );
}

function Shape({ title, schema, schemas }: { title: string; schema: Schema; schemas: Record<string, Schema> }) {
  const found = schema.$ref ? schemas[nameOf(schema.$ref)] : schema;
  const fields = Object.entries(found?.properties ?? {});
  return (
    <div>
      <p>
        {title} <code>{typeOf(schema)}</code>
      </p>
      {fields.length > 0 && (
        <Fields
          caption={`Fields of ${typeOf(schema)}`}
          rows={fields.map(([name, one]) => ({ name, type: typeOf(one), note: one.description ?? "" }))}
        />
      )}
    </div>
  );
}

function Fields({ caption, rows }: { caption: string; rows: { name: string; type: string; note: string }[] }) {
  return (
    <div class="scroll" tabIndex={0} role="group" aria-label={caption}>
      <Table
        caption={caption}
        rows={rows}
        id={(row) => row.name}
        columns={[
          { name: "Name", cell: (row) => <code>{row.name}</code> },
          { name: "Type", cell: (row) => <code class="soft">{row.type}</code> },
          { name: "Meaning", cell: (row) => <span class="small">{row.note}</span> },
        ]}
      />
    </div>
  );
}

function nameOf(reference: string): string {
  return reference.split("/").at(-1) ?? reference;
}

/** Writes a schema's type in a word or two. */
function typeOf(schema: Schema | undefined): string {
  if (!schema) return "";
  if (schema.$ref) return nameOf(schema.$ref).replace(/^Page_(.*)_$/, "Page of $1");
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.enum) return schema.enum.join(", ");
  if (schema.const !== undefined) return String(schema.const);
  if (schema.items) return `list of ${typeOf(schema.items)}`;
  return schema.type ?? "any";
}
