import type { Admin } from "../admin/context.ts"
import { soundIsOn, turnSound } from "../../ui/sound.ts"
import { focusSoon } from "../keys.ts"
import type { Console, Section } from "../state.ts"

/** What the palette can do. */
export interface Command {
  id: string
  text: string
  /** The keys that do the same, separated by spaces. */
  keys?: string
  run: () => unknown
}

const ADMIN_PAGES = ["operators", "tags", "blocks", "actors", "metrics"] as const
const THEMES = { "": "themeDevice", light: "themeLight", dark: "themeDark" } as const
const TABS = { new: "tabNew", mine: "tabMine", all: "tabAll", closed: "tabClosed" } as const

/** The commands for the open chat. */
export function chatCommands(ui: Console, { t }: Pick<Admin, "t">): Command[] {
  const { room, desk } = ui
  if (!room?.chat) return []
  const { uuid, status, isMine } = room
  const { canAccept, canGive, isOthers } = ui.can
  const own = ui.lastOwn
  const write = (mode: "reply" | "note"): void => {
    ui.show("chats")
    ui.write(mode)
  }
  const commands: (Command | false | undefined)[] = [
    canAccept && { id: "accept", text: ui.t("accept"), keys: "a", run: () => ui.accept() },
    isOthers && { id: "takeOver", text: ui.t("takeOver"), run: () => ui.act(() => desk.transfer(uuid, desk.me?.user.id ?? 0)) },
    !isOthers && { id: "reply", text: t("writeReply"), keys: "r", run: () => write("reply") },
    { id: "note", text: t("writeNote"), keys: "n", run: () => write("note") },
    canGive && { id: "transfer", text: ui.t("transfer"), keys: "t", run: () => ui.openDialog("transfer") },
    isMine && { id: "giveBack", text: ui.t("giveBack"), run: () => ui.act(() => desk.giveBack(uuid)) },
    canGive && { id: "close", text: t("closeTheChat"), keys: "e", run: () => ui.act(() => desk.close(uuid)) },
    status === "closed" && { id: "reopen", text: t("reopenTheChat"), run: () => ui.act(() => desk.reopen(uuid)) },
    own && { id: "change", text: t("changeLatest"), keys: "↑", run: () => ui.change(own) },
    { id: "transcript", text: ui.t("saveTranscript"), run: () => ui.openDialog("transcript") },
    ui.mayBlock && { id: "block", text: ui.t("blockVisitor"), run: () => ui.openDialog("block") },
    { id: "card", text: t(ui.isCardOpen ? "hideCard" : "showCard"), run: () => (ui.show("chats"), ui.toggleCard()) },
  ]
  return commands.filter(command => !!command)
}

/** The commands that are always there. */
export function otherCommands(ui: Console, { api, t }: Pick<Admin, "api" | "t">): Command[] {
  const { desk } = ui
  const page = (section: Section, name: string): Command => ({ id: section, text: t("goTo", { name }), run: () => ui.show(section) })
  const away = desk.me?.away ?? false
  return [
    ...(["new", "mine", "all", "closed"] as const).map(tab => ({
      id: `tab-${tab}`,
      text: t("goToChats", { name: ui.t(TABS[tab]) }),
      keys: `g ${tab[0] as string}`,
      run: () => ui.goTo(tab),
    })),
    { id: "search", text: ui.t("search"), keys: "/", run: () => (ui.show("chats"), focusSoon("search")) },
    page("replies", ui.t("savedReplies")),
    page("sources", ui.t("sources")),
    page("settings", ui.t("settings")),
    ...ADMIN_PAGES.filter(section => ui.mayShow(section)).map(section => page(section, t(section))),
    { id: "away", text: ui.t(away ? "comeBack" : "goAway"), run: () => ui.act(() => desk.setAway(!away)) },
    { id: "sound", text: ui.t(soundIsOn() ? "soundOff" : "soundOn"), run: () => turnSound(!soundIsOn()) },
    ...(["", "light", "dark"] as const)
      .filter(theme => theme !== ui.settings.theme)
      .map(theme => ({
        id: `theme-${theme}`,
        text: t("useTheme", { name: t(THEMES[theme]) }),
        run: () => ui.act(async () => ui.use(await api.changeSettings({ theme }))),
      })),
    { id: "help", text: t("showKeys"), keys: "?", run: () => ui.openDialog("help") },
    { id: "signOut", text: ui.t("signOut"), run: () => ui.signOut() },
  ]
}
