// Formulas, a JSON list of [TeX, whether it stands alone] on standard input, as HTML by KaTeX.
const katex = require(process.argv[2]);
const given = JSON.parse(require("fs").readFileSync(0, "utf8"));
const made = given.map(([tex, alone]) => {
  try {
    return { html: katex.renderToString(tex, { displayMode: alone, strict: "error" }) };
  } catch (error) {
    return { error: error.message };
  }
});
process.stdout.write(JSON.stringify(made));
