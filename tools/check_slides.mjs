// Looks at decks in Chromium: node tools/check_slides.mjs FOLDER
//
// Does each slide fit into 1280 × 720, is every picture there, are all formulas set, does nothing ask for another
// address? Needs what tools/check_site.mjs needs. The exit code is 1 if something was found.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const modules = path.resolve(process.env.MODULES ?? "build/npm");
const { chromium } = createRequire(path.join(modules, "x"))("playwright-core");
const folder = path.resolve(process.argv[2]);
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
let faults = 0;
let slides = 0;
for (const name of fs.readdirSync(folder).filter((name) => name.endsWith(".html")).sort()) {
  const complain = (text) => { faults += 1; console.log(`${name}: ${text}`); };
  const page = await browser.newPage({ viewport: { width: 1280, height: 720 } });
  page.on("console", (message) => message.type() === "error" && complain(`console: ${message.text()}`));
  page.on("pageerror", (error) => complain(`error: ${error.message}`));
  page.on("request", (request) => /^(file|data|blob):/.test(request.url()) || complain(`asks for ${request.url()}`));
  await page.goto(pathToFileURL(path.join(folder, name)).href, { timeout: 120000 });
  await page.waitForFunction(() => window.Reveal?.isReady?.(), null, { timeout: 120000 });
  const total = await page.evaluate(() => Reveal.getTotalSlides());
  for (let i = 0; i < total; i += 1) {
    const found = await page.evaluate((i) => {
      Reveal.configure({ transition: "none" });
      Reveal.slide(i);
      const slide = Reveal.getCurrentSlide();
      const scale = Reveal.getScale();
      const frame = slide.getBoundingClientRect();
      // An mjx-ext, the tall part of a root or bracket, cuts off what is in it.
      const boxes = [...slide.querySelectorAll(":not(.notes, .notes *, mjx-assistive-mml, mjx-assistive-mml *, mjx-ext *)")]
        .map((element) => element.getBoundingClientRect());
      return {
        right: Math.round((Math.max(...boxes.map((box) => box.right)) - frame.left) / scale),
        bottom: Math.round((Math.max(...boxes.map((box) => box.bottom)) - frame.top) / scale),
        broken: [...slide.querySelectorAll("img")].filter((image) => !image.naturalWidth).length,
        wrong: slide.querySelectorAll("mjx-merror").length,
        raw: /\\[[(]/.test(slide.innerText),
      };
    }, i);
    slides += 1;
    if (found.right > 1280 || found.bottom > 720) complain(`slide ${i + 1} reaches ${found.right} × ${found.bottom}`);
    if (found.broken) complain(`slide ${i + 1}: ${found.broken} pictures are missing`);
    if (found.wrong || found.raw) complain(`slide ${i + 1}: a formula is not set`);
    if (process.env.PICTURES) {
      await page.waitForTimeout(900);
      await page.screenshot({ path: path.join(process.env.PICTURES, `${name}-${String(i + 1).padStart(2, "0")}.png`) });
    }
  }
  await page.close();
}
await browser.close();
console.log(`${slides} slides, ${faults} faults`);
process.exit(faults ? 1 : 0);
