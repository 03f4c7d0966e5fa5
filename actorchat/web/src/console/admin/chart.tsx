import { linePath, nearest, type Point, roundUp, SPAN } from "./series.ts"

const WIDTH = 300
const HEIGHT = 90

export interface Line {
  /** What the line is, if a chart has several. */
  name?: string
  points: readonly Point[]
}

interface Properties {
  title: string
  /** What the number means. */
  hint: string
  lines: readonly Line[]
  /** The least value at the top of the chart. */
  least: number
  format: (value: number) => string
  now: number
  /** The time that is pointed at, null for now. */
  cursor: number | null
  /** What stands beside the title instead of the newest value. */
  total?: string
  move: (at: number | null) => void
  /** The time in words. */
  time: (at: number) => string
  /** The first and the last time of the chart in words. */
  ends: readonly [string, string]
}

/** The values of the last quarter of an hour. Arrow keys and the pointer show single ones. */
export function Chart({ title, hint, lines, least, format, now, cursor, total, move, time, ends }: Properties) {
  const since = now - SPAN
  const values = lines.flatMap(({ points }) => points.flatMap(({ value }) => value ?? []))
  const top = roundUp(Math.max(0, ...values), least)
  const shown = lines.map(({ name, points }) => {
    const point = cursor === null ? points.findLast(({ value }) => value !== null) : nearest(points, cursor)
    return { name, point, text: point?.value == null ? "–" : format(point.value) }
  })
  const said = shown.map(({ name, text }) => (name ? `${name} ${text}` : text)).join(", ")
  const times = lines[0]?.points.flatMap(({ at, value }) => (value === null ? [] : at)) ?? []
  const place = times.findLastIndex(at => cursor === null || at <= cursor)
  const pointTo = (event: PointerEvent & { currentTarget: HTMLElement }): void => {
    const box = event.currentTarget.getBoundingClientRect()
    move(since + ((event.clientX - box.left) / box.width) * SPAN)
  }
  const step = (event: KeyboardEvent): void => {
    const next = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: times.length - 1 }[event.key]
    if (event.key === "Escape" && cursor !== null) {
      event.stopPropagation()
      return move(null)
    }
    if (next === undefined) return
    event.preventDefault()
    move(next >= times.length - 1 ? null : (times[Math.max(0, next)] ?? null))
  }
  return (
    <figure class="chart">
      <figcaption>
        <h3>{title}</h3>
        <p class="small means">{hint}</p>
      </figcaption>
      <p class="now num">
        {total && cursor === null ? (
          <b>{total}</b>
        ) : (
          shown.map(({ name, text }, index) => (
            <span key={index} class={`v${index}`}>
              {name && <small>{name} </small>}
              <b>{text}</b>
            </span>
          ))
        )}
      </p>
      <div
        class="plot"
        role="slider"
        tabIndex={0}
        aria-label={title}
        aria-valuemin={0}
        aria-valuemax={Math.max(0, times.length - 1)}
        aria-valuenow={Math.max(0, place)}
        aria-valuetext={`${time(cursor ?? now)}: ${total && cursor === null ? total : said}`}
        onPointerMove={pointTo}
        onPointerLeave={() => move(null)}
        onBlur={() => move(null)}
        onKeyDown={step}
      >
        <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
          <path class="rule" d={`M0 0H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT}H${WIDTH}`} />
          {lines.map(({ points }, index) => (
            <path key={index} class={`l${index}`} d={linePath(points, since, top, WIDTH, HEIGHT)} />
          ))}
        </svg>
        <span class="top num">{format(top)}</span>
        {cursor !== null && <i style={{ left: percent((cursor - since) / SPAN) }} />}
        {cursor !== null &&
          shown.map(
            ({ point }, index) =>
              point?.value != null && (
                <span
                  key={index}
                  class={`at a${index}`}
                  style={{ left: percent((point.at - since) / SPAN), top: percent(1 - point.value / top) }}
                />
              ),
          )}
      </div>
      <p class="axis num" aria-hidden="true">
        <span>{ends[0]}</span>
        {cursor !== null && <b>{time(cursor)}</b>}
        <span>{ends[1]}</span>
      </p>
    </figure>
  )
}

function percent(part: number): string {
  return `${Math.min(100, Math.max(0, part * 100))}%`
}
