import assert from "node:assert/strict";
import { test } from "node:test";

import { parse, routes } from "./links.ts";

test("every link leads to the page that it names", () => {
  const id = "0xab";
  assert.deepEqual(parse(routes.projects()), { page: "projects", params: {} });
  assert.deepEqual(parse(routes.project(id)), { page: "project", params: { id } });
  assert.deepEqual(parse(routes.round(id, 3)), { page: "round", params: { id, round: "3" } });
  assert.deepEqual(parse(routes.explain(id, 3, "0xcd")), {
    page: "explain",
    params: { id, round: "3", trainer: "0xcd" },
  });
  assert.deepEqual(parse(routes.trainer(id, "0xcd")), { page: "trainer", params: { id, trainer: "0xcd" } });
  assert.deepEqual(parse(routes.account("0xcd")), { page: "account", params: { address: "0xcd" } });
  assert.deepEqual(parse(routes.reference()), { page: "reference", params: {} });
  assert.deepEqual(parse(routes.open()), { page: "open", params: {} });
});

test("an empty hash is the list, anything unknown is not found", () => {
  assert.equal(parse("").page, "projects");
  assert.equal(parse("#/projects/0xab/").page, "project");
  for (const hash of ["#/nowhere", "#/projects/", "#/projects/a/rounds", "#/projects/%E0%A4%A"]) {
    assert.equal(parse(hash).page, "unknown");
  }
});
