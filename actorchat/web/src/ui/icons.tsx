/** Paths on a grid of 20 px, drawn with strokes. */
const PATHS = {
  down: "m5 8 5 5 5-5",
  back: "m12.5 4.5-5.5 5.5 5.5 5.5",
  more: "M4.5 10h.01M10 10h.01M15.5 10h.01",
  clip: "m16.5 9.5-6.4 6.3a4 4 0 0 1-5.7-5.6l6.7-6.6a2.7 2.7 0 0 1 3.8 3.8l-6.6 6.5a1.3 1.3 0 0 1-1.9-1.9l5.9-5.8",
  send: "M10 16V4.5M5 9.3l5-4.8 5 4.8",
  file: "M11.5 2.8H6A1.5 1.5 0 0 0 4.5 4.3v11.4A1.5 1.5 0 0 0 6 17.2h8a1.5 1.5 0 0 0 1.5-1.5V6.8ZM11.5 2.8v4h4",
  close: "m5 5 10 10M15 5 5 15",
  right: "m8 4.5 5.5 5.5-5.5 5.5",
  spin: "M10 2.3A7.7 7.7 0 1 1 2.3 10",
  clock: "M10 5.5V10l3 1.8M17.5 10a7.5 7.5 0 1 1-15 0 7.5 7.5 0 0 1 15 0Z",
  alert: "M17.5 10a7.5 7.5 0 1 1-15 0 7.5 7.5 0 0 1 15 0ZM10 6v4.5M10 13.6v.1",
  tick: "m4.5 10.5 3.3 3.3L14 7",
  ticks: "m2.5 10.5 3.3 3.3L12 7M9.8 13.6l.3.2L16.5 7",
}

export function Icon({ name, size = 20, width }: { name: keyof typeof PATHS; size?: number; width?: number }) {
  return (
    <svg viewBox="0 0 20 20" width={size} height={size} aria-hidden="true">
      <path d={PATHS[name]} stroke-width={width} />
    </svg>
  )
}
