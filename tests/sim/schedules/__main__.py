from schedules.run import main

main()
