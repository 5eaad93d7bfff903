// Looks at the pages of a folder in Chromium: node tools/check_site.mjs FOLDER [PAGE…]
//
// Errors in the console, requests that leave the disk, links to nowhere, pages wider than a telephone's screen of 390
// pixels, and what axe-core calls serious or critical, light and dark. Needs Chromium, and `npm install --prefix
// build/npm playwright-core axe-core`; CHROMIUM names another browser than /usr/bin/chromium, MODULES another folder
// than build/npm; PICTURES a folder for what each page looks like, dark. The exit code is 1 if something was found.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL, fileURLToPath } from "node:url";

const modules = path.resolve(process.env.MODULES ?? "build/npm");
const { chromium } = createRequire(path.join(modules, "x"))("playwright-core");
const axe = fs.readFileSync(path.join(modules, "node_modules/axe-core/axe.min.js"), "utf8");
const folder = path.resolve(process.argv[2]);
const all = fs.readdirSync(folder, { recursive: true }).filter((name) => name.endsWith(".html"));
const names = process.argv.length > 3 ? process.argv.slice(3) : all.filter((name) => !name.includes("_static")).sort();

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
let faults = 0;
const anchors = new Map();
const idsOf = (file) => {
  if (!anchors.has(file)) {
    const text = fs.readFileSync(file, "utf8");
    anchors.set(file, new Set([...text.matchAll(/\s(?:id|name)="([^"]+)"/g)].map((found) => found[1])));
  }
  return anchors.get(file);
};

for (const name of names) {
  const complain = (text) => { faults += 1; console.log(`${name}: ${text}`); };
  const page = await browser.newPage({ viewport: { width: 390, height: 844 }, colorScheme: "light" });
  page.on("console", (message) => message.type() === "error" && complain(`console: ${message.text()}`));
  page.on("pageerror", (error) => complain(`error: ${error.message}`));
  page.on("request", (request) => /^(file|data|blob):/.test(request.url()) || complain(`asks for ${request.url()}`));
  await page.goto(pathToFileURL(path.join(folder, name)).href, { waitUntil: "load", timeout: 120000 });
  await page.evaluate(() => window.MathJax?.startup?.promise);
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  if (width > 390) complain(`${width} pixels wide on a screen of 390`);
  const wrong = await page.evaluate(() => document.querySelectorAll("mjx-merror").length);
  if (wrong) complain(`${wrong} formulas cannot be set`);
  await page.evaluate(axe);
  for (const [colorScheme, rules] of [["light", {}], ["dark", { runOnly: ["color-contrast"] }]]) {
    await page.emulateMedia({ colorScheme });
    const options = { resultTypes: ["violations"], preload: false, ...rules };
    const found = await page.evaluate((options) => axe.run(document, options), options);
    for (const fault of found.violations.filter((x) => ["serious", "critical"].includes(x.impact))) {
      complain(`${colorScheme}, axe ${fault.id}: ${fault.nodes.length} times, first ${fault.nodes[0].html.slice(0, 160)}`);
    }
  }
  const links = await page.evaluate(() => [...document.querySelectorAll("a[href]")].map((a) => a.href));
  for (const address of new Set(links.filter((x) => x.startsWith("file:")))) {
    const url = new URL(address);
    const file = fileURLToPath(new URL(url.pathname, "file://"));
    const anchor = decodeURIComponent(url.hash.slice(1));
    if (!fs.existsSync(file) || fs.statSync(file).isDirectory()) complain(`no ${path.relative(folder, file)}`);
    else if (anchor && file.endsWith(".html") && !idsOf(file).has(anchor)) {
      complain(`no #${anchor} in ${path.relative(folder, file)}`);
    }
  }
  if (process.env.PICTURES) await page.screenshot({ path: path.join(process.env.PICTURES, `${name.replaceAll("/", "-")}.png`) });
  await page.close();
}
await browser.close();
console.log(`${names.length} pages, ${faults} faults`);
process.exit(faults ? 1 : 0);
