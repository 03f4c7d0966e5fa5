import { Component } from "preact"
import { UiContext, type Ui } from "./context.ts"

/**
 * A component with what the components of one page share as its `context`. The widget's components are classes:
 * without Preact's hooks it is smaller by 1 KiB.
 */
export abstract class View<Properties = object, State = object> extends Component<Properties, State> {
  static override contextType = UiContext
  declare context: Ui
}
