import assert from "node:assert/strict";
import { test } from "node:test";

import { csv, exact, moment } from "./csv.ts";

test("a table is written as RFC 4180 says", () => {
  assert.equal(csv(["a", "b"], [["x,y", 1], ['say "hi"', null], ["two\nlines", -3]]), 'a,b\r\n"x,y",1\r\n"say ""hi""",\r\n"two\nlines",-3\r\n');
});

test("no cell becomes a formula", () => {
  assert.equal(csv(["a"], [["=1+1"], ["@x"], ["-2.5"], ["-x"]]), "a\r\n'=1+1\r\n'@x\r\n-2.5\r\n'-x\r\n");
});

test("amounts keep every digit", () => {
  assert.equal(exact("1", 18), "0.000000000000000001");
  assert.equal(exact("20638534868723768927", 18), "20.638534868723768927");
  assert.equal(exact("5000000000000000000", 18), "5");
  assert.equal(exact("42", 0), "42");
  assert.equal(exact("0", 6), "0");
});

test("times are of UTC", () => {
  assert.equal(moment(1_795_634_535), "2026-11-25T19:22:15Z");
  assert.equal(moment(0), null);
});
