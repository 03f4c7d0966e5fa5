import { useContext, useEffect, useState } from "preact/hooks"
import { clock } from "../../ui/formats.ts"
import { ConsoleContext } from "../context.ts"
import { Chart, type Line } from "./chart.tsx"
import { AdminContext } from "./context.ts"
import { number, withUnit } from "./format.ts"
import type { AdminLanguage } from "./locales/admin-en.ts"
import { Failed, Loading } from "./parts.tsx"
import { commitTime, gauge, growth, nearest, type Point, rate, type Sample, SPAN } from "./series.ts"
import type { ServerNumbers } from "./types.ts"

const MINUTE = 60_000

interface Drawn {
  title: keyof AdminLanguage
  hint: keyof AdminLanguage
  lines: Line[]
  least: number
  format: (value: number) => string
  /** Whether the sum of the quarter of an hour says more than the newest value. */
  isSum?: boolean
}

/** The page with the numbers of the server as charts. They are in the page's memory only. */
export function Metrics() {
  const ui = useContext(ConsoleContext)
  const { t, sampler } = useContext(AdminContext)
  const [cursor, setCursor] = useState<number | null>(null)
  useEffect(() => {
    sampler.look()
    const timer = setInterval(() => sampler.look(), MINUTE)
    return () => clearInterval(timer)
  }, [])
  const { samples, error } = sampler
  const last = samples.at(-1)
  const time = (at: number): string => new Intl.DateTimeFormat(t.lang, { timeStyle: "medium" }).format(at)
  const problem = error ? `${ui.t("doesNotWork", { reason: ui.reason(error) })} ${last ? t("staleNumbers") : ""}` : ""
  if (!last) {
    return (
      <>
        <p class="lead">{t("metricsLead")}</p>
        {problem ? <Failed error={problem} again={() => sampler.look()} /> : <Loading />}
      </>
    )
  }
  const charts = chartsOf(samples, t.lang)
  const ends = [clock(t.lang, new Date(last.at - SPAN)), clock(t.lang, new Date(last.at))] as const
  return (
    <>
      <p class="lead">{t("metricsLead")}</p>
      {problem && <Failed error={problem} again={() => sampler.look()} />}
      <State numbers={last.numbers} />
      <div class="charts">
        {charts.map(({ title, hint, lines, least, format, isSum }) => (
          <Chart
            key={title}
            title={t(title)}
            hint={t(hint)}
            lines={lines}
            least={least}
            format={format}
            now={last.at}
            cursor={cursor}
            move={setCursor}
            time={time}
            ends={ends}
            {...(isSum && { total: format(lines[0]?.points.reduce((sum, { value }) => sum + (value ?? 0), 0) ?? 0) })}
          />
        ))}
      </div>
      <details class="values">
        <summary>{t("asTable")}</summary>
        <Values charts={charts} samples={samples} />
      </details>
    </>
  )
}

function State({ numbers }: { numbers: ServerNumbers }) {
  const { t } = useContext(AdminContext)
  const away = numbers.brokers.filter(({ available }) => !available)
  return (
    <p class="sum">
      <span class={numbers.storage_available ? "good" : "lostcount"}>{t(numbers.storage_available ? "storageWorks" : "storageAway")}</span>
      {numbers.brokers.length > 0 && away.length === 0 && <span class="good">{t("brokersWork")}</span>}
      {away.map(({ broker }) => (
        <span key={broker} class="lostcount">
          {t("brokerAway", { broker })}
        </span>
      ))}
      {numbers.draining && <span class="hot">{t("stopping")}</span>}
      <span>{t("version", { version: numbers.version })}</span>
    </p>
  )
}

function chartsOf(samples: readonly Sample[], lang: string): Drawn[] {
  const count = (value: number): string => number(lang, value)
  const milliseconds = (value: number): string => withUnit(lang, value, "millisecond")
  const seconds = (value: number): string => withUnit(lang, value, "second")
  const one = (points: Point[]): Line[] => [{ points }]
  const behind = (numbers: ServerNumbers): number => Math.max(0, ...numbers.brokers.map(broker => broker.behind_seconds))
  const charts: Drawn[] = [
    { title: "sockets", hint: "socketsHint", lines: one(gauge(samples, each => each.sockets)), least: 5, format: count },
    { title: "messages", hint: "messagesHint", lines: one(rate(samples, each => each.messages_stored, 1)), least: 1, format: count },
    {
      title: "commits",
      hint: "commitsHint",
      lines: [
        { name: "p50", points: commitTime(samples, 0.5) },
        { name: "p99", points: commitTime(samples, 0.99) },
      ],
      least: 2,
      format: milliseconds,
    },
    { title: "rooms", hint: "roomsHint", lines: one(gauge(samples, each => each.rooms)), least: 5, format: count },
    { title: "waiting", hint: "waitingHint", lines: one(gauge(samples, each => each.operations_waiting)), least: 5, format: count },
    { title: "feeds", hint: "feedsHint", lines: one(gauge(samples, each => each.feed_items_waiting)), least: 5, format: count },
    { title: "slow", hint: "slowHint", lines: one(growth(samples, each => each.slow_sockets)), least: 1, format: count, isSum: true },
    { title: "restarted", hint: "restartedHint", lines: one(growth(samples, each => each.actor_restarts)), least: 1, format: count, isSum: true },
  ]
  if (samples.some(({ numbers }) => numbers.brokers.length)) {
    charts.push({ title: "brokers", hint: "brokersHint", lines: one(gauge(samples, behind)), least: 1, format: seconds })
  }
  return charts
}

/** One row for each minute. */
function Values({ charts, samples }: { charts: readonly Drawn[]; samples: readonly Sample[] }) {
  const { t } = useContext(AdminContext)
  const columns = charts.flatMap(({ title, lines, format }) =>
    lines.map(({ name, points }) => ({ head: name ? `${t(title)}, ${name}` : t(title), points, format })),
  )
  const rows = samples.filter(({ at }, index) => index === samples.length - 1 || minuteOf(at) !== minuteOf(samples[index + 1]?.at ?? 0)).reverse()
  return (
    <div class="scroll" role="region" aria-label={t("asTable")} tabIndex={0}>
      <table class="grid">
        <thead>
          <tr>
            <th scope="col">{t("time")}</th>
            {columns.map(({ head }) => (
              <th key={head} scope="col" class="right">
                {head}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map(({ at }) => (
            <tr key={at}>
              <th scope="row" class="num">
                {clock(t.lang, new Date(at))}
              </th>
              {columns.map(({ head, points, format }) => {
                const value = nearest(points, at)?.value ?? null
                return (
                  <td key={head} class="right num">
                    {value === null ? "–" : format(value)}
                  </td>
                )
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  )
}

function minuteOf(at: number): number {
  return Math.floor(at / MINUTE)
}
