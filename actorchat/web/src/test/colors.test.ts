import assert from "node:assert/strict"
import { test } from "node:test"
import { legible } from "../widget/colors.ts"

function contrastWithWhite(color: string): number {
  const [red = 0, green = 0, blue = 0] = (color.match(/\d+/g) ?? [])
    .map(channel => Number(channel) / 255)
    .map(channel => (channel <= 0.04045 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4))
  return 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)
}

test("white text can be read on every accent, and a dark accent stays as it is", () => {
  for (let value = 0; value <= 0xffffff; value += 0x1f1d) {
    const accent = `#${value.toString(16).padStart(6, "0")}`
    const contrast = contrastWithWhite(legible(accent))
    assert.ok(contrast >= 4.5, `${accent}: ${contrast}`)
    const given = contrastWithWhite([16, 8, 0].map(bits => (value >> bits) & 255).join(" "))
    assert.ok(given >= 4.7 ? contrast === given : contrast < 4.8, `${accent}: ${contrast}`)
  }
})

test("an accent may be short, and what is no colour is the default", () => {
  assert.equal(legible("#07c"), legible("#0077cc"))
  for (const wrong of ["", "red", "#12", "url(x)", "#0b6e7f;}"]) assert.equal(legible(wrong), "rgb(11 110 127)")
})
