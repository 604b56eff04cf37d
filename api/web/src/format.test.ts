import assert from "node:assert/strict";
import { test } from "node:test";

import { ago, amount, count, duration, integer, percent, plain, portion, short, span, units } from "./format.ts";

test("amounts are shown in tokens, grouped, without trailing zeros", () => {
  assert.equal(amount("1234567000000000000000000", 18), "1,234,567");
  assert.equal(amount("1500000000000000000", 18), "1.5");
  assert.equal(amount("-1500000", 6), "−1.5");
  assert.equal(amount("0", 18), "0");
  assert.equal(amount("42", 0), "42");
});

test("amounts round towards zero and never show something as nothing", () => {
  assert.equal(amount("1999999999999999999", 18), "1.9999");
  assert.equal(amount("1", 18), "<0.0001");
  assert.equal(amount("100000000000000", 18), "0.0001");
});

test("amounts beyond 2^53 keep every digit", () => {
  assert.equal(amount("79228162514264337593543950335", 0), "79,228,162,514,264,337,593,543,950,335");
});

test("typed amounts are read exactly or not at all", () => {
  assert.equal(units("1.5", 18), 1500000000000000000n);
  assert.equal(units("1,000", 6), 1000000000n);
  assert.equal(units("0.0000001", 6), undefined);
  for (const wrong of ["", "abc", "-1", "1e3", ".5", "1.", "0x10"]) assert.equal(units(wrong, 18), undefined);
});

test("shares of huge numbers are right", () => {
  assert.equal(portion("25000000000000000000", "100000000000000000000"), "25.0\u202f%");
  assert.equal(portion("1", "0"), "0.0\u202f%");
  assert.equal(percent(0.987), "98.7\u202f%");
});

test("times count down in the unit that matters", () => {
  assert.equal(duration(7), "0:07");
  assert.equal(duration(247), "4:07");
  assert.equal(duration(7500), "2 h 05 min");
  assert.equal(duration(273_600), "3 d 4 h");
  assert.equal(duration(-3), "0:00");
  assert.equal(span(600), "10\u202fmin");
  assert.equal(span(45), "45\u202fs");
  assert.equal(span(90), "1:30");
  assert.equal(ago(3), "just now");
  assert.equal(ago(7300), "2 h ago");
});

test("long names are shortened, short ones are not", () => {
  assert.equal(short("0x90F79bf6EB2c4f870365E785982E1f101E93b906"), "0x90F7…b906");
  assert.equal(short("0x1234"), "0x1234");
});

test("numbers on an axis keep five digits, however small", () => {
  assert.equal(plain(17.116274801), "17.116");
  assert.equal(plain(0.1 + 0.2), "0.3");
  assert.equal(plain(0.0000004), "4e−7");
  assert.equal(plain(0), "0");
});

test("counts and integers read well", () => {
  assert.equal(count(1, "round"), "1 round");
  assert.equal(count(3, "round"), "3 rounds");
  assert.equal(integer(-1234567), "−1,234,567");
});
