const DEFAULT = "0b6e7f"
/** The part of each channel in the luminance. */
const WEIGHTS = [0.2126, 0.7152, 0.0722]
const GAMMA = 2.2
/** White text has a contrast of 4.5 on colours of this luminance. */
const DARK_ENOUGH = 0.18

/** The accent as a CSS colour, darkened until white text on it can be read. */
export function legible(accent: string): string {
  const digits = accent.replace("#", "").replace(/^(.)(.)(.)$/, "$1$1$2$2$3$3")
  const value = parseInt(/^[\da-f]{6}$/i.test(digits) ? digits : DEFAULT, 16)
  const channels = [value >> 16, (value >> 8) & 255, value & 255]
  const luminance = channels.reduce((sum, channel, i) => sum + (WEIGHTS[i] ?? 0) * (channel / 255) ** GAMMA, 0)
  const factor = Math.min(1, (DARK_ENOUGH / luminance) ** (1 / GAMMA))
  return `rgb(${channels.map(channel => Math.floor(channel * factor)).join(" ")})`
}
