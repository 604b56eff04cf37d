// Compiles standard JSON from stdin to stdout; arguments are folders to look for imports in.
// With `--version` it prints the compiler's own version.
const fs = require("node:fs");
const path = require("node:path");
const solc = require("solc");

const folders = process.argv.slice(2);

function find(name) {
  for (const folder of folders) {
    const file = path.resolve(folder, name);
    if (fs.existsSync(file)) return { contents: fs.readFileSync(file, "utf8") };
  }
  return { error: `not found in ${folders.join(", ")}` };
}

if (folders[0] === "--version") {
  process.stdout.write(solc.version());
} else {
  process.stdout.write(solc.compile(fs.readFileSync(0, "utf8"), { import: find }));
}
